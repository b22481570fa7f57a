//! Which ports of the agent's range are free. A port is leased to an instance until it is forgotten, so that two copies
//! of a service never get the same one, and a stopped one's is not reused while somebody may still send requests there.
//!
//! Between our look and the service's own `bind` the port is anybody's. Other agents on this machine (and tests) keep off
//! by a lock that lives as long as its holder: an abstract Unix socket named after the port, in the same network namespace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};

use sdp_core::id::InstanceId;

#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    advertise: IpAddr,
    leases: Mutex<Leases>,
}

#[derive(Debug, Default)]
struct Leases {
    /// With the lock; an adopted instance has its port even where that cannot be locked.
    taken: BTreeMap<u16, (InstanceId, Option<UnixDatagram>)>,
    /// The search goes on where it ended, so that a port that was just given back rests for a while.
    next: u16,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>, advertise: IpAddr) -> Self {
        Self { range, advertise, leases: Mutex::default() }
    }

    /// A port on which nothing listens, for this instance; none if all are taken.
    pub(super) fn lease(&self, instance: InstanceId) -> Option<u16> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let start = leases.next.clamp(*self.range.start(), *self.range.end());
        let (port, lock) = (start..=*self.range.end())
            .chain(*self.range.start()..start)
            .filter(|port| !leases.taken.contains_key(port))
            .find_map(|port| Some((port, lock(port)?)).filter(|_| self.is_free(port)))?;
        leases.taken.insert(port, (instance, Some(lock)));
        leases.next =
            port.checked_add(1).filter(|next| self.range.contains(next)).unwrap_or(*self.range.start());
        Some(port)
    }

    /// The port of an instance that runs already, whether it is in the range or not.
    pub(super) fn claim(&self, instance: InstanceId, port: u16) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.taken.entry(port).or_insert_with(|| (instance, lock(port)));
    }

    /// Whether an instance that is to be started again can have its port now; it keeps it in any case.
    pub(super) fn reclaim(&self, instance: InstanceId, port: u16) -> bool {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let (holder, held) = leases.taken.entry(port).or_insert_with(|| (instance, None));
        if *holder != instance {
            return false;
        }
        if held.is_none() {
            *held = lock(port);
        }
        held.is_some() && self.is_free(port)
    }

    /// Gives an instance's ports back.
    pub(super) fn release(&self, instance: InstanceId) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.taken.retain(|_, (holder, _)| *holder != instance);
    }

    /// A service listens on the wildcard address or on one of ours: both must be free.
    fn is_free(&self, port: u16) -> bool {
        let can_bind = |ip: IpAddr| TcpListener::bind(SocketAddr::new(ip, port)).is_ok();
        port != 0 && can_bind(Ipv4Addr::UNSPECIFIED.into()) && can_bind(self.advertise)
    }
}

fn lock(port: u16) -> Option<UnixDatagram> {
    let name = UnixAddr::from_abstract_name(format!("sdp-port-{port}")).ok()?;
    UnixDatagram::bind_addr(&name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A free port; everything else in the tests follows from it.
    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn a_port_that_somebody_uses_is_skipped_and_one_that_is_leased_is_not_given_twice() {
        let (listener, port) = listener();
        let ports = Ports::new(port..=port, Ipv4Addr::LOCALHOST.into());
        let (a, b) = (InstanceId::new(), InstanceId::new());
        assert_eq!(ports.lease(a), None, "somebody listens there");
        drop(listener);
        assert_eq!(ports.lease(a), Some(port));
        assert_eq!(ports.lease(b), None, "leased");
        let another = Ports::new(port..=port, Ipv4Addr::LOCALHOST.into());
        assert_eq!(another.lease(b), None, "leased by another agent");
        ports.release(b);
        assert_eq!(ports.lease(b), None, "not b's to give back");
        ports.release(a);
        assert_eq!(ports.lease(b), Some(port));
    }

    #[test]
    fn the_port_of_an_instance_that_runs_already_is_not_given_away() {
        let (listener, port) = listener();
        drop(listener);
        let ports = Ports::new(port..=port, Ipv4Addr::LOCALHOST.into());
        let (a, b) = (InstanceId::new(), InstanceId::new());
        ports.claim(a, port);
        assert_eq!(ports.lease(b), None);
        ports.release(a);
        assert_eq!(ports.lease(b), Some(port));
    }

    #[test]
    fn a_port_is_had_again_when_nobody_else_uses_it_and_is_nobody_elses_meanwhile() {
        let (listener, port) = listener();
        let ports = Ports::new(port..=port, Ipv4Addr::LOCALHOST.into());
        let (a, b) = (InstanceId::new(), InstanceId::new());
        ports.claim(a, port);
        assert!(!ports.reclaim(a, port), "somebody listens there");
        drop(listener);
        assert!(ports.reclaim(a, port));
        assert!(ports.reclaim(a, port), "as often as it is started");
        assert!(!ports.reclaim(b, port));
        let another = Ports::new(port..=port, Ipv4Addr::LOCALHOST.into());
        another.claim(b, port);
        assert!(!another.reclaim(b, port), "another agent's instance has it");
        drop(ports);
        assert!(another.reclaim(b, port));
    }

    #[test]
    fn a_port_that_was_given_back_rests() {
        let ports = Ports::new(40_000..=60_000, Ipv4Addr::LOCALHOST.into());
        let a = InstanceId::new();
        let first = ports.lease(a).unwrap();
        ports.release(a);
        assert_ne!(ports.lease(a), Some(first));
    }
}
