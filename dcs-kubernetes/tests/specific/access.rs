//! Who we are, and whom we trust.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dcs_core::{Dcs, ErrorKind, Fate};
use dcs_kubernetes::Config;
use serde_json::{Value, json};
use store_servers::Servers;
use store_servers::apiserver::{ADMIN, authority, kubeconfig_for};
use store_servers::certificates::Workshop;

use crate::support::middle::{Fault, Middle, Request};
use crate::support::new_file;
use crate::{Outcome, Place};

/// The rights of a member for a user of any kind.
async fn allow(place: &Place, subject: Value) -> Outcome {
    let namespace = &place.namespace;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces";
    let role = json!({"metadata": {"name": "member"}, "rules": [
        {"apiGroups": [""], "resources": ["endpoints", "configmaps", "pods", "services"], "verbs": ["*"]}]});
    place.api.create(&format!("{rbac}/{namespace}/roles"), &role).await?;
    let binding = json!({"metadata": {"name": format!("member-{}", fastrand::u32(..))}, "subjects": [subject],
        "roleRef": {"kind": "Role", "name": "member", "apiGroup": "rbac.authorization.k8s.io"}});
    Ok(place.api.create(&format!("{rbac}/{namespace}/rolebindings"), &binding).await?)
}

pub(super) async fn a_token_that_was_exchanged_is_read_again_at_once(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let first = place.api.make_account(&place.namespace, "quorate").await?;
    allow(&place, json!({"kind": "ServiceAccount", "name": "quorate", "namespace": place.namespace})).await?;
    let file = new_file(&servers, "token");
    std::fs::write(&file, &first)?;
    let middle = Middle::before(&servers).await?;
    let config = place.config_through(&middle, &json!({"tokenFile": file}), &place.section())?;
    let a = place.member_with("a", "10.0.0.1", config).await?;
    a.wins().await?;
    // The next one is in the file, and the first one is worth nothing from now on.
    let second = place.api.account_token(&place.namespace, "quorate").await?;
    assert_ne!(first, second);
    for kind in [Request::Get, Request::Patch, Request::PatchPod, Request::Watch, Request::List] {
        middle.meet(kind, Fault::Unknown(first.clone()), usize::MAX);
    }
    std::fs::write(&file, &second)?;
    a.keeps().await?;
    a.dcs.load(a.soon()).await?;
    a.touches("running", "primary").await?;
    assert_eq!(middle.answered(401).len(), 1, "one question was enough to notice");

    // For a while there is nothing good in the file: no lock is lost by that, and it ends with the good token.
    std::fs::write(&file, "garbage")?;
    for kind in [Request::Get, Request::Patch] {
        middle.meet(kind, Fault::Unknown(second.clone()), usize::MAX);
    }
    let third = place.api.account_token(&place.namespace, "quorate").await?;
    let write = async {
        tokio::time::sleep(crate::TIMING.loop_wait).await;
        std::fs::write(&file, &third)
    };
    let (kept, written) = tokio::join!(a.keeps(), write);
    written?;
    kept
}

pub(super) async fn kubeconfigs_say_who_we_are_in_many_ways(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    allow(&place, json!({"kind": "User", "name": "carol", "apiGroup": "rbac.authorization.k8s.io"})).await?;
    let plan = servers.plan(0);
    let workshop = Workshop::open().ok_or("no openssl")?;
    let carol = workshop.signed_by(&authority(plan), "carol", "DNS:carol", "10");
    let inline = |path: &std::path::Path| Ok::<_, std::io::Error>(STANDARD.encode(std::fs::read(path)?));
    let inline_ca = inline(&authority(plan).cert)?;
    let users = [
        ("token", json!({"token": ADMIN})),
        ("certificate in files", json!({"client-certificate": carol.cert, "client-key": carol.key})),
        ("inline certificate", json!({"client-certificate-data": inline(&carol.cert)?, "client-key-data": inline(&carol.key)?})),
        (
            "program",
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never", "args": ["-c",
            format!(r#"echo '{{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{{"token":"{ADMIN}"}}}}'"#)]}}),
        ),
    ];
    for (number, (what, user)) in users.into_iter().enumerate() {
        for (how, change) in [
            ("file", json!({})),
            ("inline CA", json!({"certificate-authority-data": inline_ca})),
            ("unverified", json!({"insecure-skip-tls-verify": true})),
        ] {
            let mut config = kubeconfig_for(plan, plan.address, &user);
            if change != json!({}) {
                let mut cluster = change.clone();
                cluster["server"] = config["clusters"][0]["cluster"]["server"].clone();
                config["clusters"][0]["cluster"] = cluster;
            }
            let path = new_file(&servers, "kubeconfig");
            std::fs::write(&path, config.to_string())?;
            let config = Config::from_section(&place.section())?.with_kubeconfig(path);
            let member =
                place.member_with(&format!("m{number}"), "10.0.0.1", config).await.map_err(|error| format!("{what}, {how}: {error}"))?;
            member.touches("running", "replica").await.map_err(|error| format!("{what}, {how}: {}", error.chain()))?;
        }
    }
    // Of several contexts the one that is asked for.
    let mut section = place.section();
    section.insert("context".to_owned(), "another".into());
    let path = new_file(&servers, "kubeconfig");
    std::fs::write(&path, kubeconfig_for(plan, plan.address, &json!({"token": ADMIN})).to_string())?;
    let member = place.without_pod("a", Config::from_section(&section)?.with_kubeconfig(path));
    let error = member.dcs.load(member.soon()).await.err().ok_or("there is no such context")?;
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.chain().contains("another"), "{}", error.chain());
    Ok(())
}

pub(super) async fn an_authority_that_nobody_knows_is_refused_by_name(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let workshop = Workshop::open().ok_or("no openssl")?;
    let stranger = workshop.self_signed("stranger", "DNS:stranger");
    let mut section = place.section();
    section.insert("cacert".to_owned(), stranger.cert.display().to_string().into());
    let member = place.without_pod("a", crate::as_admin(&servers, &section)?);
    let error = member.dcs.load(member.soon()).await.err().ok_or("nobody knows it")?;
    assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fate::NotApplied), "{}", error.chain());
    assert!(error.chain().contains("certificate"), "{}", error.chain());
    // A reload brings the right one, and nothing has to be started anew.
    member.dcs.set_access(&crate::as_admin(&servers, &place.section())?);
    store_servers::eventually("it works with the right one", crate::TIMING.retry_timeout * 2, || async {
        member.dcs.load(member.soon()).await.map(drop).map_err(|error| error.chain())
    })
    .await;
    // Nobody is a user who is none.
    let user = json!({"token": "nobody"});
    let member = place.without_pod("a", crate::with_kubeconfig(&servers, &place.section(), servers.addresses()[0], &user)?);
    let error = member.dcs.load(member.soon()).await.err().ok_or("nobody knows who asks")?;
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
    Ok(())
}

pub(super) async fn a_pod_finds_its_credentials_where_pods_do(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let token = place.api.make_account(&place.namespace, "quorate").await?;
    allow(&place, json!({"kind": "ServiceAccount", "name": "quorate", "namespace": place.namespace})).await?;
    let directory = new_file(&servers, "serviceaccount");
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("token"), format!("{token}\n"))?;
    std::fs::copy(authority(servers.plan(0)).cert, directory.join("ca.crt"))?;
    let address = servers.addresses()[0];
    let config = Config::from_section(&place.section())?.in_pod(&directory, &address.ip().to_string(), address.port());
    let a = place.member_with("a", "10.0.0.1", config).await?;
    a.wins().await?;
    a.touches("running", "primary").await?;
    assert_eq!(a.dcs.server(), Some(address.to_string()));
    Ok(())
}

/// What is logged, for a test to read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) async fn a_warning_of_the_server_is_passed_on_once(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // Of this thread, on which requests are answered; the watches run on others.
    let _guard = tracing::subscriber::set_default(subscriber);
    let a = place.member_behind("a", &middle).await?;
    // As servers from 1.33 on say of every Endpoints.
    let warning = ("warning", "299 - \"v1 Endpoints is deprecated in v1.33+\"");
    for kind in [Request::Get, Request::Patch] {
        middle.meet(kind, Fault::Beside(warning.0, warning.1), usize::MAX);
    }
    a.wins().await?;
    for _ in 0..3 {
        a.dcs.load(a.soon()).await?;
        a.keeps().await?;
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert_eq!(text.matches("is deprecated in v1.33+").count(), 1, "{text}");
    Ok(())
}
