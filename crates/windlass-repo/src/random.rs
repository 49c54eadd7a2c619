//! Randomness of the operating system.

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use windlass_core::id::{EntryId, PointId, RepositoryId, RestoreId, WriterId};

/// The operating system gave no randomness; nothing that needs a key can go on.
#[derive(Debug, thiserror::Error)]
#[error("get randomness from the operating system")]
pub struct NoRandomness;

/// Random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Identifiers that can be made now.
pub trait Fresh: Sized {
    /// A new one.
    fn fresh() -> Result<Self, NoRandomness>;
}

macro_rules! fresh {
    ($($id:ty)*) => {$(
        impl Fresh for $id {
            fn fresh() -> Result<Self, NoRandomness> {
                Ok(Self::new(Timestamp::now(), u128::from_le_bytes(bytes()?)))
            }
        }
    )*};
}

fresh!(PointId RepositoryId WriterId RestoreId EntryId);
