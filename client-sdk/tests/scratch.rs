#![allow(clippy::all, clippy::pedantic, missing_docs, clippy::unwrap_used)]
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use valise_client_sdk::*;

struct Up(Child);
impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn up() -> (Up, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap().keep();
    let bin = std::env::var("VALISE").unwrap_or("/work/main/target/debug/valise".into());
    let mut child = Command::new(bin)
        .args(["up", "--json", "--listen", "127.0.0.1:0", "--data"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (Up(child), serde_json::from_str(&line).unwrap())
}

fn url(v: &serde_json::Value) -> String {
    let a = v["address"].as_str().unwrap();
    if a.starts_with("http") {
        a.into()
    } else {
        format!("http://{a}")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn story() {
    let (_up, info) = up();
    let url = url(&info);
    println!("{info}");
    let dir = tempfile::tempdir().unwrap();
    let t = Instant::now();
    let admin = Client::enrol(
        &url,
        info["administrator_enrolment_code"].as_str().unwrap(),
        "admin",
        Store::memory(),
    )
    .await
    .unwrap();
    println!("enrol admin {:?}", t.elapsed());
    let domain = admin.user().domain().to_owned();
    let mut people = Vec::new();
    for name in ["bob", "carol"] {
        let user: UserId = format!("{name}@{domain}").parse().unwrap();
        let code = admin
            .administration()
            .create_enrolment_code(&user, UserKind::Device, Duration::from_secs(3600))
            .await
            .unwrap();
        let t = Instant::now();
        let key = StoreKey::from_bytes([7; 32]);
        people.push(
            Client::enrol(&url, &code.code, name, Store::file(dir.path().join(name), key))
                .await
                .unwrap(),
        );
        println!("enrol {name} {:?}", t.elapsed());
    }
    let carol = people.pop().unwrap();
    let bob = people.pop().unwrap();
    let t = Instant::now();
    let group = admin.create_group("Budget").await.unwrap();
    println!("create {:?}", t.elapsed());
    let t = Instant::now();
    let added = group.add(&[bob.user(), carol.user()]).await.unwrap();
    println!("add {:?} {added:?}", t.elapsed());
    let t = Instant::now();
    let sent = group.send("Bonjour").await.unwrap();
    println!("send {:?} {sent:?}", t.elapsed());
    let mut events = bob.events();
    loop {
        let e = tokio::time::timeout(Duration::from_secs(10), events.next())
            .await
            .unwrap()
            .unwrap();
        println!("{e:?}");
        if matches!(e.kind, EventKind::Message { .. }) {
            break;
        }
    }
    println!("got {:?}", t.elapsed());
    let g = bob.group(group.id()).await.unwrap().unwrap();
    println!("{:?} {:?}", g.info().await.unwrap(), g.members().await.unwrap());
    let t = Instant::now();
    let n = 2000;
    let all = futures::future::join_all((0..n).map(|i| g.send(format!("m{i}")))).await;
    assert!(
        all.iter().all(|r| r.is_ok()),
        "{:?}",
        all.iter().find(|r| r.is_err())
    );
    println!("{n} sends {:?}", t.elapsed());
    let positions: Vec<_> = all.iter().map(|r| r.as_ref().unwrap().position).collect();
    assert!(positions.is_sorted());
    bob.synced().await.unwrap();
    carol.synced().await.unwrap();
    println!("synced {:?}", t.elapsed());
    let c = carol.group(group.id()).await.unwrap().unwrap();
    assert_eq!(c.info().await.unwrap().position, g.info().await.unwrap().position);
    // both commit at once
    let (a, b, d) = tokio::join!(g.self_update(), c.self_update(), group.self_update());
    a.unwrap();
    b.unwrap();
    d.unwrap();
    for x in [&bob, &carol, &admin] {
        x.synced().await.unwrap();
    }
    assert_eq!(
        c.info().await.unwrap().epoch_authenticator,
        g.info().await.unwrap().epoch_authenticator
    );
    println!("epoch {:?}", c.info().await.unwrap().epoch);
    // ephemeral
    let mut ev = carol.events();
    tokio::spawn(async move {
        loop {
            let e = ev.next().await;
            match e {
                None => break,
                Some(e) if matches!(e.kind, EventKind::Ephemeral { .. }) => {
                    println!("EPHEMERAL {e:?}");
                }
                _ => {}
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    g.send_ephemeral("typing").await.unwrap();
    // leave
    let t = Instant::now();
    c.leave().await.unwrap();
    println!("left {:?}", t.elapsed());
    let mut ev = carol.events();
    loop {
        let e = tokio::time::timeout(Duration::from_secs(20), ev.next())
            .await
            .unwrap()
            .unwrap();
        if matches!(e.kind, EventKind::Removed { .. }) {
            println!("{e:?} {:?}", t.elapsed());
            break;
        }
    }
    // restart
    bob.close().await;
    group.send("while bob was away").await.unwrap();
    let bob = Client::open(Store::file(dir.path().join("bob"), StoreKey::from_bytes([7; 32])))
        .await
        .unwrap();
    bob.synced().await.unwrap();
    let g = bob.group(group.id()).await.unwrap().unwrap();
    assert_eq!(
        g.info().await.unwrap().epoch_authenticator,
        group.info().await.unwrap().epoch_authenticator
    );
    println!("{:?}", g.info().await.unwrap());
    let r = group.remove(&[bob.user()]).await.unwrap();
    println!("{r:?}");
    bob.synced().await.unwrap();
    println!("{:?}", g.info().await.unwrap());
    println!("{:?}", bob.devices().await.unwrap());
    println!("{:?}", admin.administration().users().await.unwrap().len());
    bob.close().await;
    carol.close().await;
    admin.close().await;
}

fn up_in(dir: &std::path::Path, listen: &str) -> (Up, serde_json::Value) {
    let bin = std::env::var("VALISE").unwrap_or("/work/main/target/debug/valise".into());
    let mut child = Command::new(bin).args(["up", "--json", "--listen", listen, "--data"]).arg(dir)
        .stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Up(child), serde_json::from_str(&line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults() {
    let data = tempfile::tempdir().unwrap();
    let (up, info) = up_in(data.path(), "127.0.0.1:0");
    let url = url(&info);
    let dir = tempfile::tempdir().unwrap();
    let admin = Client::enrol(&url, info["administrator_enrolment_code"].as_str().unwrap(), "admin", Store::memory()).await.unwrap();
    let domain = admin.user().domain().to_owned();
    let user: UserId = format!("bob@{domain}").parse().unwrap();
    let code = admin.administration().create_enrolment_code(&user, UserKind::Device, Duration::from_secs(3600)).await.unwrap();
    let key = StoreKey::from_bytes([7; 32]);
    let store = Store::file(dir.path().join("bob"), key);
    let bob = Client::enrol(&url, &code.code, "b", store.clone()).await.unwrap();
    assert!(matches!(Client::open(store.clone()).await, Err(Error::StoreInUse)));
    let group = admin.create_group("G").await.unwrap();
    group.add(&[&user]).await.unwrap();
    let group2 = group.clone();
    let sends = tokio::spawn(async move { futures::future::join_all((0..500).map(|i| group2.send(format!("m{i}")))).await });
    let addr = url.trim_start_matches("http://").to_owned();
    let mut up = Some(up);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let mut p = up.take().unwrap();
        p.0.kill().unwrap(); p.0.wait().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        up = Some(up_in(data.path(), &addr).0);
        println!("restarted");
    }
    let t = Instant::now();
    let all = sends.await.unwrap();
    println!("sends after restart {:?}", t.elapsed());
    assert!(all.iter().all(|r| r.is_ok()), "{:?}", all.iter().find(|r| r.is_err()));
    bob.synced().await.unwrap();
    println!("synced {:?}", t.elapsed());
    let mut ev = bob.events();
    let mut got = Vec::new();
    while got.len() < 500 {
        let e = tokio::time::timeout(Duration::from_secs(5), ev.next()).await.unwrap().unwrap();
        if let EventKind::Message { content, .. } = e.kind { got.push(content.as_text().unwrap().to_owned()); }
    }
    assert_eq!(got, (0..500).map(|i| format!("m{i}")).collect::<Vec<_>>());
    // revoke bob
    let bobdev = bob.device();
    let mut conn = bob.connection();
    admin.revoke_device(bobdev).await.unwrap();
    let t = Instant::now();
    loop {
        if group.info().await.unwrap().members == 1 { break }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(t.elapsed() < Duration::from_secs(20));
    }
    println!("revoked device gone {:?}", t.elapsed());
    tokio::time::timeout(Duration::from_secs(10), conn.wait_for(|c| { println!("bob {c:?}"); matches!(c, Connection::Offline { reason: OfflineReason::Refused(_) }) })).await.unwrap().unwrap();
    let r = bob.group(group.id()).await.unwrap().unwrap().send("x").await;
    println!("{r:?}");
    // offline open
    drop(up);
    bob.close().await;
    let bob = Client::open(store.clone()).await.unwrap();
    println!("{:?}", bob.groups().await.unwrap());
    bob.close().await;
    admin.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_users() {
    let data = tempfile::tempdir().unwrap();
    let (_up, info) = up_in(data.path(), "127.0.0.1:0");
    let url = url(&info);
    let admin = Client::enrol(&url, info["administrator_enrolment_code"].as_str().unwrap(), "admin", Store::memory()).await.unwrap();
    let domain = admin.user().domain().to_owned();
    let mut all = Vec::new();
    let t = Instant::now();
    let mut options = Options::default();
    options.key_packages.one_time = 2;
    for i in 0..12 {
        let user: UserId = format!("u{i}@{domain}").parse().unwrap();
        let code = admin.administration().create_enrolment_code(&user, UserKind::Device, Duration::from_secs(3600)).await.unwrap();
        all.push(Client::enrol_with(&url, &code.code, "d", Store::memory(), options.clone()).await.unwrap());
    }
    println!("enrolled {:?}", t.elapsed());
    // drain packages so that last resort is used
    for g in 0..6 {
        let group = admin.create_group(&format!("g{g}")).await.unwrap();
        let users: Vec<_> = all.iter().map(|c| c.user().clone()).collect();
        let added = group.add(&users).await.unwrap();
        assert_eq!(added.devices.len(), 12, "{added:?}");
    }
    println!("added {:?}", t.elapsed());
    // everybody self-updates and sends at once in all groups
    for c in &all { c.synced().await.unwrap(); }
    println!("synced {:?}", t.elapsed());
    let groups = all[0].groups().await.unwrap();
    assert_eq!(groups.len(), 6);
    let mut work = Vec::new();
    for c in &all {
        for g in c.groups().await.unwrap() {
            work.push(tokio::spawn(async move {
                for i in 0..3 { g.send(format!("{i}")).await.unwrap(); if i == 1 { g.self_update().await.unwrap(); } }
            }));
        }
    }
    for w in work { w.await.unwrap(); }
    println!("storm {:?}", t.elapsed());
    for c in &all { c.synced().await.unwrap(); }
    for g in all[0].groups().await.unwrap() {
        let want = g.info().await.unwrap();
        for c in &all {
            let have = c.group(g.id()).await.unwrap().unwrap().info().await.unwrap();
            assert_eq!((have.epoch, have.epoch_authenticator.clone(), have.position, have.name.clone()), (want.epoch, want.epoch_authenticator.clone(), want.position, want.name.clone()));
        }
        println!("{} {:?} {:?}", want.name, want.epoch, want.position);
    }
}
