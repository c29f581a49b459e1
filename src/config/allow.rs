//! Who may connect: the key `allow`. Decided from the peer's address before one byte is read.

use std::net::{IpAddr, Ipv6Addr};

/// A set of addresses and networks, v4 and v6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// `None` = everyone.
    networks: Option<Vec<Network>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// Always v6; a v4 network is its v4-mapped form, so that one comparison serves both.
    bits: u128,
    /// Length of the prefix of that v6 form, 0–128.
    prefix: u32,
}

/// Whom an address is counted for: who has a v6 address has 2^64 of them.
pub fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Allow {
    /// Everyone may connect.
    pub fn any() -> Self {
        Self { networks: None }
    }

    /// Reads a comma-separated list of addresses (`10.1.2.3`, `::1`) and networks (`10.0.0.0/8`, `fd00::/8`), or `any`.
    /// The empty text is `any` too: the original asked nobody. The error names the entry that is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut networks = Vec::new();
        let mut any = text.trim().is_empty();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            if entry.eq_ignore_ascii_case("any") {
                any = true;
            } else {
                networks.push(Network::parse(entry).ok_or_else(|| {
                    format!("`{entry}` is no address and no network such as 10.0.0.0/8 (host names are not looked up)")
                })?);
            }
        }
        // `,` alone names nobody, which is surely not meant as everybody.
        if !any && networks.is_empty() {
            return Err("names no address; write `any` to let everyone in".into());
        }
        Ok(Self { networks: (!any).then_some(networks) })
    }

    /// Whether a peer with this address may connect. A v4 peer on a dual-stack socket (`::ffff:10.0.0.1`) counts as v4.
    pub fn permits(&self, peer: IpAddr) -> bool {
        let bits = mapped(peer).to_bits();
        self.networks.as_ref().is_none_or(|list| list.iter().any(|n| n.bits == masked(bits, n.prefix)))
    }

    /// Whether the list names this address, by itself or by its network: `any` names nobody.
    pub fn names(&self, address: IpAddr) -> bool {
        self.networks.is_some() && self.permits(address)
    }

    /// Whether everyone may connect.
    pub fn is_any(&self) -> bool {
        self.networks.is_none()
    }
}

impl Network {
    fn parse(entry: &str) -> Option<Self> {
        let (address, length) = match entry.split_once('/') {
            Some((address, length)) if length.bytes().all(|b| b.is_ascii_digit()) => {
                (address, Some(length.parse::<u32>().ok()?))
            }
            Some(_) => return None,
            None => (entry, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = length.unwrap_or(width);
        if prefix > width {
            return None;
        }
        let prefix = prefix.saturating_add(128_u32.saturating_sub(width));
        // Host bits (`10.1.2.3/8`) are ignored, as everywhere.
        Some(Self { bits: masked(mapped(address).to_bits(), prefix), prefix })
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn masked(bits: u128, prefix: u32) -> u128 {
    // A shift by the full width is no shift at all in Rust, so prefix 0 needs its own answer.
    bits & u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Allow;

    fn permits(list: &str, peer: &str) -> bool {
        Allow::parse(list).unwrap().permits(peer.parse().unwrap())
    }

    #[test]
    fn networks_match_by_prefix() {
        let list = "10.0.0.0/8, 192.168.7.9 ,fd00::/8,::1";
        for peer in ["10.255.0.1", "192.168.7.9", "fd12::1", "::1", "::ffff:10.1.1.1", "::ffff:192.168.7.9"] {
            assert!(permits(list, peer), "{peer}");
        }
        for peer in
            ["11.0.0.1", "192.168.7.8", "fe80::1", "127.0.0.1", "::2", "::10.0.0.1", "::ffff:11.0.0.1"]
        {
            assert!(!permits(list, peer), "{peer}");
        }
        assert!(permits("10.9.9.9/8", "10.1.1.1"), "host bits are ignored");
        assert!(permits("::ffff:10.0.0.0/104", "10.1.1.1"));
        assert!(permits("10.1.1.0/31", "10.1.1.1") && !permits("10.1.1.0/31", "10.1.1.2"));
    }

    #[test]
    fn any_and_the_zero_prefix() {
        for list in ["", " ", "any", "10.0.0.1, Any"] {
            assert!(Allow::parse(list).unwrap().is_any(), "{list}");
        }
        assert!(permits("0.0.0.0/0", "9.9.9.9") && !permits("0.0.0.0/0", "fd00::1"));
        assert!(permits("::/0", "fd00::1") && permits("::/0", "9.9.9.9"));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for list in [
            ",",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "localhost",
            "10.0.0",
            "10.0.0.1 10.0.0.2",
        ] {
            assert!(Allow::parse(list).is_err(), "{list}");
        }
        assert!(Allow::parse("10.0.0.1, web1").unwrap_err().contains("`web1`"));
    }
}
