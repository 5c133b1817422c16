//! Who has to go where too many have proved nothing yet: a flood from one host must not keep others out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

/// Who counts as one host: an address, of IPv6 all of a /64, which one machine may have to itself.
pub fn host(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

/// Of more than `most`: the oldest of the host that has most, or of all such hosts.
pub fn victim<I: Copy, H: Copy + Eq + Hash>(all: impl Iterator<Item = (I, H, Instant)>, most: usize) -> Option<I> {
    let all: Vec<(I, H, Instant)> = all.collect();
    if all.len() <= most {
        return None;
    }
    let mut hosts: HashMap<H, usize> = HashMap::new();
    all.iter().for_each(|(_, host, _)| *hosts.entry(*host).or_default() += 1);
    let crowd = hosts.values().copied().max()?;
    let crowded = all.iter().filter(|(_, host, _)| hosts.get(host) == Some(&crowd));
    crowded.min_by_key(|(_, _, since)| *since).map(|(id, ..)| *id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Planted: the oldest of all is ended. Seen: the node's handshake, which is older than the flood's last, goes.
    #[test]
    fn a_flood_from_one_host_ends_its_own() {
        let began = Instant::now();
        let at = |n: u64| began + Duration::from_millis(n);
        let mut all = vec![(0, "10.0.0.7", at(0))];
        all.extend((1..5).map(|n| (n, "10.0.0.66", at(n))));
        assert_eq!(victim(all.iter().copied(), 5), None, "there is room");
        assert_eq!(victim(all.iter().copied(), 4), Some(1));
    }

    /// Should fail with (not tried): ties go to the greatest address (as it was). then: the newest goes, and so does each that comes.
    #[test]
    fn where_no_host_has_more_than_another_the_oldest_goes() {
        let began = Instant::now();
        let all = (0..5).map(|n| (n, 10 + n, began + Duration::from_millis(n)));
        assert_eq!(victim(all, 4), Some(0));
    }

    #[test]
    fn a_network_of_64_bits_is_one_host() {
        let of = |text: &str| host(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.7"), of("10.0.0.7"));
        assert_ne!(of("10.0.0.6"), of("10.0.0.7"));
    }
}
