//! Loopback ports that nobody else takes.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which Linux takes the ports of outgoing connections: a server that is down for a while finds
/// its port free when it comes back, and a client that keeps trying it does not end up connected to itself.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// A free port of 127.0.0.1. No other process that asks here gets it while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the kernel lets go of it when the process ends, however it ends.
    _claim: File,
}

impl Port {
    /// Finds a free port.
    pub fn free() -> Self {
        for _ in 0..1000 {
            let random = RandomState::new().build_hasher().finish();
            let width = u64::from(RANGE.end - RANGE.start);
            let number = RANGE.start + u16::try_from(random % width).expect("is below the width");
            if let Some(port) = Self::claim(number) {
                return port;
            }
        }
        panic!(
            "no free port of 127.0.0.1 between {} and {}",
            RANGE.start, RANGE.end
        );
    }

    /// This port, unless somebody has it.
    pub fn claim(number: u16) -> Option<Self> {
        let folder = std::env::temp_dir().join("valise-ports");
        fs::create_dir_all(&folder).expect("cannot create a folder for claims of ports");
        let claim = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(number.to_string()))
            .ok()?;
        claim.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _claim: claim,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
