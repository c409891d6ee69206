//! Where the Service of the leader sends its clients: the subsets of its Endpoints.

use crate::config::Port;
use crate::object::{Address, Object, Subset, TargetRef};

/// What the leader wants there.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// The configured address; the pod's own if absent.
    pub(crate) ip: Option<&'a str>,
    pub(crate) ports: &'a [Port],
    pub(crate) pod: Option<&'a Object>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The subsets to write so that they point to us; nothing if they do already, or our address is not known.
pub(crate) fn pointing_to_us(there: Option<&Object>, wanted: &Wanted<'_>) -> Option<Vec<Subset>> {
    let there = there.and_then(|object| object.subsets.as_deref()).unwrap_or_default();
    let ip = wanted.ip.or_else(|| wanted.pod?.status.pod_ip.as_deref()).filter(|ip| !ip.is_empty())?;
    if are_right(there, ip, wanted.ports) {
        return None;
    }
    let mut address = Address { ip: ip.to_owned(), ..Address::default() };
    if let Some(pod) = wanted.pod {
        address.hostname = pod.spec.hostname.clone();
        address.node_name = pod.spec.node_name.clone();
        address.target_ref = Some(target(there, ip, pod, wanted));
    }
    Some(vec![Subset { addresses: Some(vec![address]), ports: Some(wanted.ports.to_vec()) }])
}

/// The subsets to write so that they point to nobody; nothing if they do already.
pub(crate) fn pointing_to_nobody(there: &Object) -> Option<Vec<Subset>> {
    there.subsets.as_ref().is_some_and(|subsets| !subsets.is_empty()).then(Vec::new)
}

fn are_right(there: &[Subset], ip: &str, ports: &[Port]) -> bool {
    let [Subset { addresses: Some(addresses), ports: Some(there) }] = there else { return false };
    let [address] = addresses.as_slice() else { return false };
    let same = |a: &Port, b: &Port| {
        let protocol = |port: &Port| port.protocol.as_deref().unwrap_or("TCP").to_owned();
        a.name == b.name && a.port == b.port && protocol(a) == protocol(b)
    };
    address.ip == ip && there.len() == ports.len() && ports.iter().all(|port| there.iter().any(|other| same(port, other)))
}

/// One that is there and means us is kept, so that it does not change with every version of the pod.
fn target(there: &[Subset], ip: &str, pod: &Object, wanted: &Wanted<'_>) -> TargetRef {
    let addresses = there.iter().flat_map(|subset| subset.addresses.iter().flatten());
    let kept = addresses.filter(|address| address.ip == ip).find_map(|address| address.target_ref.clone());
    kept.filter(|target| target.name.as_deref() == Some(wanted.name)).unwrap_or_else(|| TargetRef {
        kind: Some("Pod".to_owned()),
        namespace: Some(wanted.namespace.to_owned()),
        name: Some(wanted.name.to_owned()),
        uid: pod.metadata.uid.clone(),
        resource_version: Some(pod.metadata.resource_version.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Object {
        serde_json::from_value(json!({"subsets": subsets})).unwrap()
    }

    fn pod() -> Object {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "9"},
            "spec": {"hostname": "a", "nodeName": "node1"}, "status": {"podIP": "10.0.0.1"},
        }))
        .unwrap()
    }

    fn ports() -> Vec<Port> {
        vec![
            Port { name: Some("postgresql".to_owned()), port: 5432, protocol: None },
            Port { name: Some("x".to_owned()), port: 1, protocol: None },
        ]
    }

    fn write(there: Value, ip: Option<&str>, pod: Option<&Object>) -> Option<Value> {
        let ports = ports();
        let wanted = Wanted { ip, ports: &ports, pod, namespace: "default", name: "a" };
        pointing_to_us(Some(&endpoints(there)), &wanted).map(|subsets| serde_json::to_value(subsets).unwrap())
    }

    #[test]
    fn there_is_one_address_with_what_is_known_of_the_pod() {
        let expected = json!([{
            "addresses": [{"ip": "10.0.0.1", "hostname": "a", "nodeName": "node1", "targetRef": {
                "kind": "Pod", "namespace": "default", "name": "a", "uid": "u", "resourceVersion": "9"}}],
            "ports": [{"name": "postgresql", "port": 5432}, {"name": "x", "port": 1}],
        }]);
        assert_eq!(write(json!(null), None, Some(&pod())), Some(expected));
        let bare = json!([{"addresses": [{"ip": "10.0.0.7"}], "ports": [{"name": "postgresql", "port": 5432}, {"name": "x", "port": 1}]}]);
        assert_eq!(write(json!([]), Some("10.0.0.7"), None), Some(bare));
    }

    #[test]
    fn what_is_right_is_left_alone_whatever_the_order_of_its_ports() {
        let right = json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 1, "protocol": "TCP"}, {"name": "postgresql", "port": 5432}]}]);
        assert_eq!(write(right.clone(), None, Some(&pod())), None);
        assert!(write(right, Some("10.0.0.2"), Some(&pod())).is_some());
        let wrong = [
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "x", "port": 1}, {"name": "postgresql", "port": 5432}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 2}, {"name": "postgresql", "port": 5432}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 1, "protocol": "UDP"}, {"name": "postgresql", "port": 5432}]}]),
            json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 1}]}]),
            json!([{"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "x", "port": 1}, {"name": "postgresql", "port": 5432}]}]),
        ];
        for there in wrong {
            assert!(write(there.clone(), None, Some(&pod())).is_some(), "{there}");
        }
    }

    #[test]
    fn a_reference_to_us_is_kept() {
        let target = json!({"kind": "Pod", "namespace": "default", "name": "a", "uid": "u", "resourceVersion": "3"});
        let there = json!([{"addresses": [{"ip": "10.0.0.1", "targetRef": target}], "ports": [{"port": 7}]}]);
        let written = write(there, None, Some(&pod())).unwrap();
        assert_eq!(written[0]["addresses"][0]["targetRef"]["resourceVersion"], "3");
    }

    #[test]
    fn without_an_address_nothing_is_touched() {
        assert_eq!(write(json!([]), None, None), None);
        let pending: Object = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(write(json!([]), None, Some(&pending)), None);
    }

    #[test]
    fn nobody_is_an_empty_list_and_is_written_once() {
        assert_eq!(pointing_to_nobody(&endpoints(json!([{"addresses": [{"ip": "10.0.0.1"}]}]))), Some(Vec::new()));
        assert_eq!(pointing_to_nobody(&endpoints(json!(null))), None);
        assert_eq!(pointing_to_nobody(&endpoints(json!([]))), None);
    }
}
