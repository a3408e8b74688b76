//! Reports on a disk that is full: a real one, of a size of its own, in a mount namespace of its own.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
};

use async_container_diagnostics::{
    incident::Store,
    output::{NewFile, OutputError},
    threads::ThreadDump,
};

/// Where the disk is, for the test that runs in the namespace.
const DISK: &str = "FULL_DISK";

/// Runs a test of this file again, with a disk of 64 KiB that only it sees.
fn with_a_disk(test: &str) -> Result<(), Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount a disk");
        return Ok(());
    }

    let directory = tempfile::tempdir()?;
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(directory.path()).env(DISK, directory.path());
        command
    };
    const MOUNT: &str = "mount -t tmpfs -o size=64k none \"$1\"";

    if !unshared(MOUNT).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no disk can be mounted here");
        return Ok(());
    }

    let output = unshared(&format!("{MOUNT} && exec \"$2\" --exact {test} --ignored --nocapture"))
        .arg(env::current_exe()?)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    Ok(())
}

/// Writes to the disk until there is no room, and leaves that.
fn fill(disk: &Path) {
    let mut file = File::create(disk.join("filler")).unwrap();
    while file.write_all(&[b'.'; 1024]).is_ok() {}
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_dump_fails_and_leaves_no_file() -> Result<(), Box<dyn Error>> {
    with_a_disk("on_the_disk_a_dump_fails")
}

#[test]
#[ignore = "is run on a disk of its own"]
fn on_the_disk_a_dump_fails() {
    let Some(disk) = env::var_os(DISK) else { return };
    let disk = Path::new(&disk);
    let dump = ThreadDump::take().unwrap().to_string();

    // It fills up in the middle.
    let mut file = NewFile::create(disk.join("threads.txt")).unwrap();
    while file.write_all(dump.as_bytes()).is_ok() {}
    let error = file.finish().unwrap_err();
    assert!(error.to_string().contains("threads.txt"), "{error}");
    let OutputError::Write { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(names(disk).is_empty());

    // It was full before.
    fill(disk);
    let error = async_container_diagnostics::output::write(disk.join("threads.txt"), dump.as_bytes()).unwrap_err();
    let OutputError::Write { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(names(disk), ["filler"]);
}

#[test]
fn an_incident_has_whole_files_or_is_not_there() -> Result<(), Box<dyn Error>> {
    with_a_disk("on_the_disk_an_incident_has_whole_files")
}

#[test]
#[ignore = "is run on a disk of its own"]
fn on_the_disk_an_incident_has_whole_files() {
    let Some(disk) = env::var_os(DISK) else { return };
    let disk = Path::new(&disk);
    let store = Store::new(disk.join("incidents"));

    let incident = store.begin("worker#1", 1).unwrap();
    incident.write("reason.json", b"{}").unwrap();
    assert!(matches!(incident.write("memory.json", &[b' '; 1 << 20]), Err(OutputError::Write { .. })));
    assert_eq!(names(&incident.finish().unwrap()), ["reason.json"]);

    fill(disk);
    let incident = store.begin("worker#1", 2).unwrap();
    assert!(incident.write("reason.json", b"{}").is_err());
    assert!(matches!(incident.finish(), Err(OutputError::Empty { .. })));
    assert_eq!(names(store.directory()).len(), 1);
}
