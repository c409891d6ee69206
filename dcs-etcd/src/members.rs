//! Which servers etcd itself names.

use crate::endpoint::{Endpoint, Scheme};

/// The client addresses in a list of members that a server reached by `scheme` gave.
///
/// Addresses that cannot be meant for others (the wildcard, sockets in the file system) are left out. Somebody who
/// configured TLS is never led to an address without.
pub(crate) fn usable<'a>(urls: impl Iterator<Item = &'a str>, scheme: Scheme) -> Vec<Endpoint> {
    urls.filter_map(|url| Endpoint::parse_url(url).ok())
        .map(|(endpoint, _)| endpoint)
        .filter(|endpoint| endpoint.address().is_none_or(|address| !address.is_unspecified()))
        .filter(|endpoint| scheme == Scheme::Http || endpoint.scheme == Scheme::Https)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(urls: &[&str], scheme: Scheme) -> Vec<String> {
        usable(urls.iter().copied(), scheme).iter().map(Endpoint::url).collect()
    }

    #[test]
    fn only_addresses_that_can_be_meant_for_us_are_used() {
        let urls = ["http://10.0.0.1:2379", "http://0.0.0.0:2379", "unix://localhost:7", "https://[::]:1", "https://b:2379"];
        assert_eq!(found(&urls, Scheme::Http), ["http://10.0.0.1:2379", "https://b:2379"]);
        assert_eq!(found(&urls, Scheme::Https), ["https://b:2379"], "never from TLS to none");
    }
}
