//! Other users, who are let in for some of it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Supervisor};
use rustix::{
    process::geteuid,
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// The user that the fixture lets in.
const NOBODY: u32 = 65534;

fn can_be_another_user() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can be another user");
    }
    is_root
}

/// The fixture with a socket of this mode, in a directory that all may enter.
fn start(dir: &Dir, mode: &str) -> io::Result<Program> {
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let mut program = dir.example("acs-fixture")?.args(["roles", mode]).start()?;
    Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    Ok(program)
}

/// Does something as another user, in a thread of its own: to the kernel, each thread has its user.
fn as_nobody<T: Send + 'static>(act: impl FnOnce(&Path) -> T + Send + 'static, path: PathBuf) -> io::Result<T> {
    let act = move || {
        set_thread_res_gid(None, Some(rustix::fs::Gid::from_raw(NOBODY)), None)?;
        set_thread_res_uid(None, Some(rustix::fs::Uid::from_raw(NOBODY)), None)?;
        Ok(act(&path))
    };
    thread::spawn(act).join().map_err(|_| io::Error::other("the other user panicked"))?
}

#[test]
fn who_is_let_in_may_do_what_the_role_includes() -> io::Result<()> {
    if !can_be_another_user() {
        return Ok(());
    }
    let dir = Dir::new()?;
    let program = start(&dir, "0666")?;
    let ask = |path: &Path| -> io::Result<String> {
        let mut supervisor = Supervisor::connect(path)?;
        supervisor.ask("status", json!({}))?;
        let refused = supervisor.ask("restart", json!({})).map_or_else(|error| error.to_string(), |_| String::new());
        supervisor.ask("ping", json!({}))?;
        Ok(refused)
    };
    let refused = as_nobody(ask, dir.socket())??;
    assert!(refused.contains("PermissionDenied") && refused.contains("operate"), "{refused}");
    assert!(!program.stderr().contains("keeps them out"), "{}", program.stderr());
    Ok(())
}

#[test]
fn a_socket_that_keeps_out_who_is_let_in_is_told_of() -> io::Result<()> {
    if !can_be_another_user() {
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = start(&dir, "0600")?;
    let refused = as_nobody(|path| Supervisor::connect(path).err(), dir.socket())?;
    assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::PermissionDenied));
    program.wait_for_stderr("keeps them out", LIMIT)?;
    Ok(())
}
