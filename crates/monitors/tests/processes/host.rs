//! What the kernel of this machine says, where it says it: real cgroups, and real pressure.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_container_monitors::sample::Pressure;
use serde_json::Value;

use crate::helper::{Helper, eventually};

const MEBIBYTE: u64 = 1 << 20;
const LIMIT: u64 = 512 * MEBIBYTE;

/// A cgroup with a limit of memory, which is gone when this is dropped.
struct Group {
    directory: PathBuf,
    source: &'static str,
}

impl Group {
    /// One below that of this process, or below the top; the error says why that may not be.
    fn create() -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let version_1 = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
        let version_2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let mut reasons = Vec::new();
        let kinds = [
            (version_2, "/sys/fs/cgroup", "memory.max", "cgroup_v2"),
            (version_1, "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "cgroup_v1"),
        ];
        for (path, mount, limit, source) in kinds {
            for parent in path.iter().flat_map(|path| [format!("{mount}{path}"), mount.to_owned()]) {
                let group = Self { directory: Path::new(&parent).join(format!("acs-{}", std::process::id())), source };
                match group.limit_to(LIMIT, limit) {
                    Ok(()) => return Ok(group),
                    Err(error) => reasons.push(format!("{}: {error}", group.directory.display())),
                }
            }
        }
        Err(format!("no cgroup with a limit of memory can be made here: {}", reasons.join("; ")))
    }

    fn limit_to(&self, size: u64, file: &str) -> io::Result<()> {
        fs::create_dir(&self.directory)?;
        // Not to create a file, where this is no cgroup at all.
        let mut options = fs::OpenOptions::new();
        io::Write::write_all(&mut options.write(true).open(self.directory.join(file))?, size.to_string().as_bytes())
    }

    fn add(&self, process_id: u32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), process_id.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is busy until the kernel has seen the last process go.
        let start = Instant::now();
        while self.directory.exists() && start.elapsed() < Duration::from_secs(10) {
            if fs::remove_dir(&self.directory).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// TRAP-20, as the kernel of this machine has it.
#[test]
fn a_real_cgroup_limits_and_its_page_cache_is_available() {
    let group = match Group::create() {
        Ok(group) => group,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let mut helper = Helper::spawn();
    if let Err(error) = group.add(helper.process_id()) {
        return eprintln!("skipped: no process can be put into {}: {error}", group.directory.display());
    }
    let host = |helper: &mut Helper| {
        let output = helper.run("host");
        // Before the first answer come the lines of the harness.
        let line = output.lines().find(|line| line.starts_with('{')).unwrap();
        serde_json::from_str::<Value>(line).unwrap()
    };
    let size = |host: &Value, name: &str| host[name].as_u64().unwrap();

    let first = host(&mut helper);
    assert_eq!((&first["source"], size(&first, "total_size")), (&group.source.into(), LIMIT), "{first}");

    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    helper.run(&format!("cache {}", directory.path().join("file").display()));
    // What each processor counted by itself, the kernel adds up every two seconds at the latest.
    eventually(|| size(&host(&mut helper), "reclaimable_size") > size(&first, "reclaimable_size") + 90 * MEBIBYTE);
    let cached = host(&mut helper);
    assert!(size(&cached, "free_size") < size(&first, "free_size") - 90 * MEBIBYTE, "{first} {cached}");
    assert!(size(&cached, "used_size") < size(&first, "used_size") + 20 * MEBIBYTE, "{first} {cached}");

    helper.run(&format!("allocate {}", 100 * MEBIBYTE));
    let allocated = host(&mut helper);
    assert!(size(&allocated, "used_size") > size(&cached, "used_size") + 90 * MEBIBYTE, "{cached} {allocated}");
}

#[test]
fn real_pressure_is_read() {
    let Ok(text) = fs::read_to_string("/proc/pressure/memory") else {
        return eprintln!("skipped: this kernel tells no pressure");
    };
    assert!(text.contains("avg10="), "{text}");
    let pressure = Pressure::read().unwrap();
    assert!((0.0..=1.0).contains(&pressure.some) && (0.0..=1.0).contains(&pressure.full), "{pressure:?}");
    assert!(pressure.full <= pressure.some, "{pressure:?}");
}
