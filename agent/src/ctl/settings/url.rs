//! `-d [SCHEME://][HOST][:PORT][/NAMESPACE]`: a store on the command line.

use serde_json::{Map, Value, json};

use crate::config::STORES;
use crate::ctl::failure::Failure;

/// The schemes with their usual ports. Without a scheme the port decides; the last one is what nobody else is.
const SCHEMES: [(&str, u16); 5] = [("zookeeper", 2181), ("exhibitor", 8181), ("consul", 8500), ("etcd3", 2379), ("etcd", 2379)];

/// A store given by its URL.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Store {
    section: &'static str,
    options: Value,
    namespace: Option<String>,
}

impl Store {
    /// Takes the place of every store that is configured.
    pub(super) fn put_into(self, tree: &mut Map<String, Value>) {
        for section in STORES {
            tree.shift_remove(section);
        }
        tree.insert(self.section.to_owned(), self.options);
        if let Some(namespace) = self.namespace {
            tree.insert("namespace".to_owned(), Value::String(namespace));
        }
    }
}

/// Reads the URL.
///
/// # Errors
///
/// The scheme is not that of a store, or the port is not a number.
pub(super) fn parse(url: &str) -> Result<Store, Failure> {
    let (scheme, rest) = url.split_once("//").unwrap_or(("", url));
    let scheme = scheme.strip_suffix(':').unwrap_or(scheme);
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (host, port) = host_and_port(authority, url)?;

    let (section, usual_port) = if scheme.is_empty() {
        // `etcd` has the port of `etcd3` and is what a URL without scheme has always meant.
        let by_port = SCHEMES[..3].iter().find(|(_, usual)| port == Some(*usual));
        by_port.copied().unwrap_or(SCHEMES[4])
    } else {
        let known = SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name));
        *known.ok_or_else(|| Failure::error(format!("Unknown dcs scheme: {scheme}")))?
    };
    let port = port.unwrap_or(usual_port);
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let options = match section {
        "zookeeper" => json!({ "hosts": [address] }),
        "exhibitor" => json!({ "hosts": [host], "port": port }),
        _ => json!({ "host": address }),
    };
    let namespace = Some(path.trim()).filter(|path| !matches!(*path, "" | "/")).map(str::to_owned);
    Ok(Store { section, options, namespace })
}

fn host_and_port<'a>(authority: &'a str, url: &str) -> Result<(&'a str, Option<u16>), Failure> {
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, tail)) => (host, tail.strip_prefix(':').unwrap_or("")),
        None => address.rsplit_once(':').unwrap_or((address, "")),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    if port.is_empty() {
        return Ok((host, None));
    }
    let number = port.parse().map_err(|_| Failure::error(format!("The port `{port}` in `{url}` is not a port")))?;
    Ok((host, Some(number)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::parse;

    fn tree(url: &str) -> Value {
        let mut tree = Map::new();
        parse(url).expect("a store").put_into(&mut tree);
        Value::Object(tree)
    }

    #[test]
    fn every_part_has_a_default() {
        for (url, expected) in [
            ("", json!({"etcd": {"host": "localhost:2379"}})),
            ("etcd://:2399", json!({"etcd": {"host": "localhost:2399"}})),
            ("etcd3://h:2379/ns", json!({"etcd3": {"host": "h:2379"}, "namespace": "/ns"})),
            ("etcd3://h/", json!({"etcd3": {"host": "h:2379"}})),
            ("localhost:8500", json!({"consul": {"host": "localhost:8500"}})),
            ("localhost:2181", json!({"zookeeper": {"hosts": ["localhost:2181"]}})),
            ("//h:8181", json!({"exhibitor": {"hosts": ["h"], "port": 8181}})),
            ("h:2379", json!({"etcd": {"host": "h:2379"}})),
            ("etcd3://[::1]:2380", json!({"etcd3": {"host": "[::1]:2380"}})),
        ] {
            assert_eq!(tree(url), expected, "{url}");
        }
    }

    #[test]
    fn the_url_takes_the_place_of_all_stores() {
        let mut tree = json!({"kubernetes": {}, "etcd3": {"host": "x"}, "raft": {}, "namespace": "a", "scope": "s"});
        let map = tree.as_object_mut().expect("an object");
        parse("etcd3://y").expect("a store").put_into(map);
        assert_eq!(tree, json!({"namespace": "a", "scope": "s", "etcd3": {"host": "y:2379"}}));
    }

    #[test]
    fn what_is_not_a_store_is_refused() {
        let message = |url| parse(url).map(|_| ()).map_err(|failure| failure.to_string());
        assert_eq!(message("redis://h"), Err("Unknown dcs scheme: redis".to_owned()));
        assert_eq!(message("etcd3://h:x"), Err("The port `x` in `etcd3://h:x` is not a port".to_owned()));
    }
}
