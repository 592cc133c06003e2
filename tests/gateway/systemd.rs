//! What systemd is told, and the sockets that it passes; and the file as it changes under a running process.

use std::{net::TcpListener, os::fd::OwnedFd};

use tokio::process::Command;

use crate::support::{
    Gateway, Script, Store, begin,
    process::{Folder, Process, ifmatch},
};

#[tokio::test]
async fn systemd_is_told_of_ready_reload_watchdog_and_stop() {
    let store = Store::start().await;
    let folder = Folder::new();
    let settings = Gateway::before(store.address).top("reload_interval = \"0s\"");
    let file = folder.put("ifmatch.toml", &settings.text());
    let mut command = ifmatch(&["run", "--config", file.to_str().expect("UTF-8")]);
    command.env("WATCHDOG_USEC", "200000");
    let mut gateway = Process::spawn(command).await;
    gateway.put("/note", "x").expect(201).await;
    gateway.tells("WATCHDOG=1").await;

    folder.put("ifmatch.toml", &settings.guard("missing = \"require\"").text());
    gateway.signal("-HUP").await;
    assert!(gateway.tells("RELOADING=1").await.contains("MONOTONIC_USEC="));
    gateway.tells("READY=1").await;
    gateway.put("/note", "x").expect(428).await;

    gateway.signal("-TERM").await;
    gateway.tells("STOPPING=1").await;
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn a_change_of_the_file_is_seen_and_one_with_errors_is_told_once_and_changes_nothing() {
    let store = Store::start().await;
    let folder = Folder::new();
    let settings = || Gateway::before(store.address).top("reload_interval = \"20ms\"");
    let file = folder.put("ifmatch.toml", &settings().text());
    let mut command = ifmatch(&["run", "--config", file.to_str().expect("UTF-8")]);
    command.env("WATCHDOG_USEC", "200000");
    let mut gateway = Process::spawn(command).await;
    gateway.put("/note", "x").expect(201).await;

    let required = settings().guard("missing = \"require\"").top("workers = 3").text().replace("workers = 2\n", "");
    folder.put("ifmatch.toml", &required);
    gateway.tells("READY=1").await;
    assert!(gateway.logs("needs a restart").await.contains("workers"));
    gateway.put("/note", "x").expect(428).await;

    folder.put("ifmatch.toml", &required.replace("missing", "mising").replace("drain_timeout", "drain_timeuot"));
    gateway.logs("drain_timeuot").await;
    gateway.logs("mising").await;
    gateway.tells("READY=1").await;
    gateway.put("/note", "x").expect(428).await;
    // A second passes, in which it is looked at many times.
    for _ in 0..10 {
        gateway.tells("WATCHDOG=1").await;
    }
    assert_eq!(gateway.logged(), Vec::<String>::new());
    gateway.signal("-HUP").await;
    gateway.logs("drain_timeuot").await;
    gateway.logs("mising").await;
    folder.put("ifmatch.toml", &settings().text());
    gateway.logs("serving under the file").await;
    gateway.put("/note", "x").expect(200).await;
}

#[tokio::test]
async fn a_configuration_by_symbolic_links_is_followed() {
    let store = Store::start().await;
    let folder = Folder::new();
    let settings = || Gateway::before(store.address).top("reload_interval = \"20ms\"");
    // As Kubernetes mounts a ConfigMap.
    for (version, settings) in [("one", settings()), ("two", settings().guard("missing = \"require\""))] {
        std::fs::create_dir(folder.path(version)).expect("a folder");
        std::fs::write(folder.path(version).join("ifmatch.toml"), settings.text()).expect("a file");
    }
    let link = |target: &str| {
        std::os::unix::fs::symlink(target, folder.path("..new")).expect("a link");
        std::fs::rename(folder.path("..new"), folder.path("..data")).expect("a link");
    };
    link("one");
    std::os::unix::fs::symlink("..data/ifmatch.toml", folder.path("ifmatch.toml")).expect("a link");
    let mut gateway = Process::start(&folder.path("ifmatch.toml")).await;
    gateway.put("/note", "x").expect(201).await;
    link("two");
    gateway.logs("serving under the file").await;
    gateway.put("/note", "x").expect(428).await;
}

#[tokio::test]
async fn without_a_file_a_hang_up_changes_nothing() {
    let store = Store::start().await;
    let upstream = format!("http://{}", store.address);
    let mut gateway = Process::spawn(ifmatch(&["run", "--listen", "127.0.0.1:0", "--upstream", &upstream])).await;
    gateway.signal("-HUP").await;
    gateway.logs("there is no file").await;
    gateway.put("/note", "x").expect(201).await;
}

#[tokio::test]
async fn a_socket_that_was_passed_is_listened_on_and_outlives_the_process() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let text = Gateway::before(backend.address).text().replace("127.0.0.1:0", &address.to_string());
    let file = folder.put("ifmatch.toml", &text);
    let start = || {
        // The shell puts the socket where systemd would.
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run --config \"$1\" 3<&0";
        let passed = OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_ifmatch"), file.to_str().expect("UTF-8")]).stdin(passed);
        Process::spawn(command)
    };
    let mut gateway = start().await;
    assert_eq!(gateway.address, address);
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[], "one").await;
    assert_eq!(reader.answer().await.text(), "one");
    gateway.signal("-TERM").await;
    assert_eq!(gateway.ends().await.code(), Some(0));

    // Nobody accepts, and nobody is turned away.
    let waiting = begin(gateway.get("/note"));
    let _next = start().await;
    backend.expect("GET", "/note").await.answer(200, &[], "two").await;
    assert_eq!(waiting.answer().await.text(), "two");
}
