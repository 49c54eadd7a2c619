// The bench's CSI driver: volumes and snapshots are directories of the node.
//
// It speaks the real CSI protocol to the real kubelet, csi-provisioner and csi-snapshotter. A snapshot is taken while
// every pod of the node is frozen, so it holds one point in time, as a storage system's would. Sizes are recorded and
// not enforced. Made for one node, by one process at a time; the only thing kept is the tree of directories:
//
//	<root>/volumes/<id>/data     <root>/volumes/<id>/info.json
//	<root>/snapshots/<id>/data   <root>/snapshots/<id>/info.json
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const driverName = "csi.windlass.dev"

func main() {
	root := flag.String("root", "", "directory of volumes and snapshots")
	socket := flag.String("socket", "", "unix socket, in the kubelet's plugins_registry")
	name := flag.String("node", "", "name of the node")
	pods := flag.String("pods", "", "freezer cgroup of all pods")
	flag.Parse()

	_ = os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterControllerServer(server, controller{tree: tree(*root), pods: freezer(*pods)})
	csi.RegisterNodeServer(server, node{tree: tree(*root), name: *name})
	registration.RegisterRegistrationServer(server, kubelet{socket: *socket})
	log.Fatal(server.Serve(listener))
}

func logged(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	response, err := handle(ctx, request)
	if err != nil {
		log.Printf("%s %v: %v", call.FullMethod, request, err)
	} else if call.FullMethod != csi.Identity_Probe_FullMethodName {
		log.Printf("%s %v", call.FullMethod, request)
	}
	return response, err
}

// kubelet is what the kubelet asks when it finds the socket.
type kubelet struct {
	registration.UnimplementedRegistrationServer
	socket string
}

func (k kubelet) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: driverName, Endpoint: k.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (kubelet) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Printf("the kubelet refused the driver: %s", status.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}},
	}}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
