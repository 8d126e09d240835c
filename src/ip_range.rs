//! A range of IP addresses in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: every address that shares its first `prefix` bits with `addr`.
///
/// An IPv4 address and its IPv4-mapped IPv6 form (`::ffff:a.b.c.d`, which a dual-stack socket
/// reports) are one and the same address here, in the range and in what is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpRange {
    addr: IpAddr,
    prefix: u8,
}

/// Why a text is not a range. The text is for an operator and never quotes the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpRangeFault {
    #[error("not an IP address, nor a range such as 10.0.0.0/8 or 2001:db8::/32")]
    NotAnAddress,
    #[error("the prefix length is a number from 0 to 32 (IPv4) or 0 to 128 (IPv6)")]
    BadPrefix,
    #[error("bits are set behind the prefix; the network starts at {0}")]
    HostBits(IpAddr),
}

impl IpRange {
    pub fn contains(&self, addr: IpAddr) -> bool {
        network(addr.to_canonical(), self.prefix) == Some(self.addr)
    }

    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

/// `10.0.0.0/8`, or a single address. Bits behind the prefix must be zero: `10.1.0.0/8` is
/// more often a slip in the prefix than a long way to write `10.0.0.0/8`.
impl FromStr for IpRange {
    type Err = IpRangeFault;

    fn from_str(text: &str) -> Result<IpRange, IpRangeFault> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = addr.parse().map_err(|_| IpRangeFault::NotAnAddress)?;
        let prefix = match prefix {
            None => bits(written),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| IpRangeFault::BadPrefix)?
            }
            Some(_) => return Err(IpRangeFault::BadPrefix),
        };
        let start = network(written, prefix).ok_or(IpRangeFault::BadPrefix)?;
        if start != written {
            return Err(IpRangeFault::HostBits(start));
        }
        // `::ffff:10.0.0.0/104` is `10.0.0.0/8`; a shorter prefix spans more than IPv4.
        match (written.to_canonical(), prefix.checked_sub(96)) {
            (addr @ IpAddr::V4(_), Some(prefix)) if written.is_ipv6() => {
                Ok(IpRange { addr, prefix })
            }
            _ => Ok(IpRange { addr: written, prefix }),
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits behind the prefix cleared; `None` where the prefix is too long
/// for its family.
fn network(addr: IpAddr, prefix: u8) -> Option<IpAddr> {
    let cleared = bits(addr).checked_sub(prefix)?;
    Some(match addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(u32::from(cleared)).unwrap_or(0);
            Ipv4Addr::from_bits(addr.to_bits() & mask).into()
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(u32::from(cleared)).unwrap_or(0);
            Ipv6Addr::from_bits(addr.to_bits() & mask).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_contains_its_first_and_last_address_and_no_other() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::", "2001:db9::"]),
            ("2001:db8::1", ["2001:db8::1", "2001:db8:0:0::1"], ["2001:db8::", "2001:db8::2"]),
        ] {
            for addr in inside {
                assert!(range(text).contains(addr.parse().unwrap()), "{addr} in {text}");
            }
            for addr in outside {
                assert!(!range(text).contains(addr.parse().unwrap()), "{addr} in {text}");
            }
        }
    }

    #[test]
    fn the_widest_ranges_hold_their_family_only() {
        assert!(range("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
        assert!(!range("0.0.0.0/0").contains("2001:db8::".parse().unwrap()));
        assert!(range("::/0").contains("2001:db8::".parse().unwrap()));
        assert!(!range("::/0").contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn mapped_ipv4_addresses_are_ipv4_addresses() {
        assert!(range("10.0.0.0/8").contains("::ffff:10.1.2.3".parse().unwrap()));
        assert_eq!(range("::ffff:10.0.0.0/104"), range("10.0.0.0/8"));
    }

    #[test]
    fn slips_in_a_range_are_refused() {
        for (text, fault) in [
            ("", IpRangeFault::NotAnAddress),
            ("10.0.0/8", IpRangeFault::NotAnAddress),
            ("localhost", IpRangeFault::NotAnAddress),
            ("10.0.0.0/", IpRangeFault::BadPrefix),
            ("10.0.0.0/+8", IpRangeFault::BadPrefix),
            ("10.0.0.0/33", IpRangeFault::BadPrefix),
            ("2001:db8::/129", IpRangeFault::BadPrefix),
            ("10.1.0.0/8", IpRangeFault::HostBits("10.0.0.0".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<IpRange>(), Err(fault), "{text}");
        }
    }
}
