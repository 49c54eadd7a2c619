package main

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// controller makes and removes volumes and snapshots.
type controller struct {
	csi.UnimplementedControllerServer
	tree tree
	pods freezer
}

func (controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return response, nil
}

func (c controller) CreateVolume(_ context.Context, request *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	for _, capability := range request.VolumeCapabilities {
		if capability.GetBlock() != nil {
			return nil, status.Error(codes.InvalidArgument, "block volumes are not provided")
		}
	}
	wanted := entry{ID: request.Name, Bytes: request.GetCapacityRange().GetRequiredBytes()}
	source := request.GetVolumeContentSource()
	var made entry
	var err error
	switch {
	case source.GetSnapshot() != nil:
		made, err = c.tree.copy(snapshots, source.GetSnapshot().SnapshotId, volumes, wanted)
	case source.GetVolume() != nil:
		made, err = c.frozenCopy(source.GetVolume().VolumeId, volumes, wanted)
	default:
		made, err = c.tree.create(volumes, wanted)
	}
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: made.ID, CapacityBytes: made.Bytes, ContentSource: source}}, nil
}

func (c controller) DeleteVolume(_ context.Context, request *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, c.tree.remove(volumes, request.VolumeId)
}

func (c controller) ValidateVolumeCapabilities(_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := c.tree.read(volumes, request.VolumeId); err != nil {
		return nil, err
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities},
	}, nil
}

func (c controller) CreateSnapshot(_ context.Context, request *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	made, err := c.frozenCopy(request.SourceVolumeId, snapshots, entry{ID: request.Name, Source: request.SourceVolumeId})
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{
		SnapshotId: made.ID, SourceVolumeId: made.Source, SizeBytes: made.Bytes, CreationTime: timestamppb.New(made.Made), ReadyToUse: true,
	}}, nil
}

func (c controller) DeleteSnapshot(_ context.Context, request *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	return &csi.DeleteSnapshotResponse{}, c.tree.remove(snapshots, request.SnapshotId)
}

// frozenCopy copies a volume that pods may be writing to, as it is at one point in time.
func (c controller) frozenCopy(volume string, to kind, wanted entry) (entry, error) {
	if made, err := c.tree.read(to, wanted.ID); err == nil {
		return made, nil
	}
	if err := c.pods.freeze(); err != nil {
		return entry{}, err
	}
	defer c.pods.thaw()
	return c.tree.copy(volumes, volume, to, wanted)
}
