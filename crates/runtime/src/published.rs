//! What the compose file publishes, as far as a process in a container is told.

/// Where the compose file publishes the ports for clients.
const BIND: &str = "RAFTKV_BIND";
/// Where it publishes the management ports; where it is not set, as [`BIND`] says.
const MANAGEMENT_BIND: &str = "RAFTKV_MANAGEMENT_BIND";

/// Warns when the management port is published beyond this machine only because the port for clients is. Whoever reaches it can remove
/// nodes and wipe them.
pub fn warn_of_management() {
    let value = |name| std::env::var(name).ok();
    if let Some(warning) = warning(value(BIND).as_deref(), value(MANAGEMENT_BIND).as_deref()) {
        tracing::warn!("{warning}");
    }
}

fn warning(bind: Option<&str>, management: Option<&str>) -> Option<String> {
    let set = |value: Option<&str>| value.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
    let bind = set(bind).filter(|bind| !is_this_machine(bind))?;
    if set(management).is_some() {
        return None;
    }
    Some(format!(
        "{BIND}={bind} publishes the management port, too: whoever reaches it can remove nodes and wipe them. Set {MANAGEMENT_BIND}, to \
         127.0.0.1 or to {bind}; a later version will not let it follow {BIND}"
    ))
}

fn is_this_machine(address: &str) -> bool {
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address == "localhost" || address.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_management_port_that_is_open_because_another_is_is_warned_of() {
        for (bind, management) in [
            (None, None),
            (Some(""), None),
            (Some("127.0.0.1"), None),
            (Some("[::1]"), Some("")),
            (Some("localhost"), None),
            (Some("0.0.0.0"), Some("127.0.0.1")),
            (Some("0.0.0.0"), Some("0.0.0.0")),
            (None, Some("0.0.0.0")),
        ] {
            assert_eq!(warning(bind, management), None, "{bind:?} {management:?}");
        }
        for (bind, management) in [("0.0.0.0", None), ("0.0.0.0", Some("")), ("10.0.0.1", None), ("[::]", None)] {
            let warning = warning(Some(bind), management).expect(bind);
            assert!(warning.contains("RAFTKV_MANAGEMENT_BIND") && warning.contains(bind), "{warning}");
        }
    }
}
