//! Loopback addresses of one's own.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
};

use anyhow::{Result, bail};

/// A port that nothing else uses on these addresses: listening there is the claim.
const CLAIM_PORT: u16 = 61_999;

/// An address of 127.0.0.0/8 that no other holder of a claim has, in this process or another.
///
/// On such an address every port is free, so that nothing has to look for free ports and lose races for them, and a
/// server may have the very port that the genuine one has. Linux routes the whole of 127.0.0.0/8 to loopback.
#[derive(Debug)]
pub struct LoopbackAddress {
    address: Ipv4Addr,
    _claim: TcpListener,
}

// === impl LoopbackAddress ===

impl LoopbackAddress {
    /// Claims an address; it is given back on drop.
    pub fn claim() -> Result<Self> {
        let random = RandomState::new();
        for try_number in 0..1000_u32 {
            let [a, b, c, ..] = random.hash_one(try_number).to_le_bytes();
            // 127.0.x.x is where everything else lives; .0 and .255 look like networks to a reader.
            let address = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
            if let Ok(claim) = TcpListener::bind((address, CLAIM_PORT)) {
                return Ok(Self { address, _claim: claim });
            }
        }
        bail!("no address of 127.0.0.0/8 can be listened on: is this Linux?")
    }

    /// The address.
    pub fn ip(&self) -> Ipv4Addr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_claims_share_an_address() -> Result<()> {
        let claims: Vec<_> = (0..50).map(|_| LoopbackAddress::claim()).collect::<Result<_>>()?;
        let mut addresses: Vec<_> = claims.iter().map(LoopbackAddress::ip).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), claims.len());
        assert!(addresses.iter().all(Ipv4Addr::is_loopback));
        Ok(())
    }
}
