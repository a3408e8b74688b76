//! The memory of the host, or of the cgroup that this process is in.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

/// A limit of a version 1 cgroup that is no less than this is none: the kernel's "unlimited" depends on the page size.
const NO_LIMIT: u64 = 1 << 60;

/// The memory of the host, or of the cgroup where that leaves less; in bytes.
///
/// The page cache is not what anybody needs, and the kernel gives it up on demand: it counts as available, on the host and
/// in a cgroup alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HostMemory {
    /// Whose figures these are.
    pub source: MemorySource,
    /// What there is.
    pub total_size: u64,
    /// What cannot be given up: the total without what is available.
    pub used_size: u64,
    /// What nothing is in.
    pub free_size: u64,
    /// What is in use, and would be given up on demand: the page cache, and caches of the kernel.
    pub reclaimable_size: u64,
    /// What programs can still have: what is free, and what can be reclaimed.
    pub available_size: u64,
    /// The swap space of the host.
    pub swap_total_size: u64,
    /// What of it is used.
    pub swap_used_size: u64,
}

/// Where figures of memory come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemorySource {
    /// A limit of a version 2 cgroup.
    CgroupV2,
    /// A limit of a version 1 cgroup.
    CgroupV1,
    /// `/proc/meminfo`: nothing limits this process below what the host has.
    Host,
}

impl HostMemory {
    /// Reads the figures, in about 50 µs; `None` where the platform does not tell.
    ///
    /// A process may be in several limits at once: its cgroup's, and those of the cgroups around that. What counts is the one
    /// that leaves the least. `memory.high` of a version 2 cgroup is one, too: what is above it is slowed down until it is not.
    pub fn read() -> Option<Self> {
        Self::read_in(Path::new("/"))
    }

    fn read_in(root: &Path) -> Option<Self> {
        let host = host(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let limits = levels(root, &groups).into_iter().filter_map(|level| level.read());
        let tightest =
            limits.filter(|limit| limit.total_size < host.total_size).min_by_key(|limit| limit.available_size);
        let Some(limit) = tightest else { return Some(host) };
        let available_size = limit.available_size.min(host.available_size);
        Some(Self {
            available_size,
            used_size: limit.total_size.saturating_sub(available_size),
            swap_total_size: host.swap_total_size,
            swap_used_size: host.swap_used_size,
            ..limit
        })
    }
}

/// How long programs had to wait for memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pressure {
    /// The part of the last ten seconds in which some of them waited: 0 to 1.
    pub some: f64,
    /// The part in which all of them did, and nothing was done.
    pub full: f64,
    /// How long that was altogether, since the cgroup or the host is there.
    #[serde(skip)]
    pub full_total: Duration,
}

impl Pressure {
    /// Reads the pressure of the cgroup of this process, where it is a version 2 one, else of the host. For a child of an
    /// application with cgroups of their own, it is that of all children together. `None` where the kernel does not tell (it is
    /// from before 4.20, or was built or started without).
    pub fn read() -> Option<Self> {
        Self::read_in(Path::new("/"))
    }

    fn read_in(root: &Path) -> Option<Self> {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mut levels = levels(root, &groups).into_iter().filter(|level| level.version == 2);
        let own = levels.next();
        // What a supervisor waits for by itself says little of its workers.
        let is_of_a_child = own.as_ref().is_some_and(|own| is_of_a_child(&own.directory));
        let own = if is_of_a_child { levels.next() } else { own };
        let own = own.and_then(|level| fs::read_to_string(level.directory.join("memory.pressure")).ok());
        let text = own.or_else(|| fs::read_to_string(root.join("proc/pressure/memory")).ok())?;
        let field = |kind: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            line.split_whitespace().find_map(|field| field.strip_prefix(name))
        };
        let average = |kind| Some(field(kind, "avg10=")?.parse::<f64>().ok()? / 100.0);
        let full_total = field("full ", "total=").and_then(|microseconds| microseconds.parse().ok());
        Some(Self {
            some: average("some ")?,
            full: average("full ").unwrap_or(0.0),
            full_total: full_total.map_or(Duration::ZERO, Duration::from_micros),
        })
    }
}

/// Whether the cgroup is that of one child of an application: `NAME@GENERATION` in `APPLICATION-PID`.
fn is_of_a_child(directory: &Path) -> bool {
    let end = |directory: Option<&Path>, mark: char| {
        let name = directory?.file_name()?.to_str()?;
        Some(name.rsplit_once(mark)?.1.to_owned())
    };
    let is_number = |text: String| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    end(Some(directory), '@').is_some_and(is_number) && end(directory.parent(), '-').is_some_and(is_number)
}

fn host(meminfo: &str) -> Option<HostMemory> {
    let size = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        Some(kibibytes.saturating_mul(1024))
    };
    let (total_size, free_size) = (size("MemTotal")?, size("MemFree")?);
    let available_size = size("MemAvailable")?.min(total_size);
    let swap_total_size = size("SwapTotal").unwrap_or(0);
    Some(HostMemory {
        source: MemorySource::Host,
        total_size,
        used_size: total_size - available_size,
        free_size,
        reclaimable_size: available_size.saturating_sub(free_size),
        available_size,
        swap_total_size,
        swap_used_size: swap_total_size.saturating_sub(size("SwapFree").unwrap_or(0)),
    })
}

/// A cgroup that this process is in, itself or within another one.
struct Level {
    version: u8,
    directory: PathBuf,
}

/// The cgroups that may limit this process's memory, innermost first; version 2 before version 1.
fn levels(root: &Path, groups: &str) -> Vec<Level> {
    let mut levels = Vec::new();
    let mounts = [(2, "sys/fs/cgroup"), (2, "sys/fs/cgroup/unified"), (1, "sys/fs/cgroup/memory")];

    for (version, mount) in mounts {
        let path = groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it =
                if version == 2 { controllers.is_empty() } else { controllers.split(',').any(|it| it == "memory") };
            is_it.then_some(path)
        });
        let Some(path) = path else { continue };
        let mount = root.join(mount);
        // In a container, the path may be the one outside, and the mount what is inside: its top is then the cgroup.
        let inner = mount.join(path.trim_start_matches('/'));
        let mut directory = if inner.is_dir() { inner } else { mount.clone() };
        loop {
            levels.push(Level { version, directory: directory.clone() });
            if directory == mount || !directory.pop() {
                break;
            }
        }
    }

    levels
}

impl Level {
    fn read(&self) -> Option<HostMemory> {
        let file = |name: &str| fs::read_to_string(self.directory.join(name)).ok();
        let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
        let [limit, usage] = match self.version {
            2 => ["memory.max", "memory.current"],
            _ => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
        };
        // "max" is no number, and no limit. Above memory.high, everything there is slowed down until it is below again: nobody can
        // have what is between that and the limit in earnest.
        let high = (self.version == 2).then(|| number("memory.high")).flatten();
        let total_size = number(limit).into_iter().chain(high).min().filter(|limit| *limit < NO_LIMIT)?;
        let usage = number(usage)?;
        let statistics = file("memory.stat").unwrap_or_default();
        let figure = |name: &str| {
            let line = statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        // What is on the lists of files can be dropped or written out. Shared memory counts as file, but is on none of them.
        let reclaimable_size = match self.version {
            2 => figure("active_file") + figure("inactive_file") + figure("slab_reclaimable"),
            _ => figure("total_active_file") + figure("total_inactive_file"),
        };
        let reclaimable_size = reclaimable_size.min(usage);
        let free_size = total_size.saturating_sub(usage);
        let available_size = (free_size + reclaimable_size).min(total_size);
        Some(HostMemory {
            source: if self.version == 2 { MemorySource::CgroupV2 } else { MemorySource::CgroupV1 },
            total_size,
            used_size: total_size - available_size,
            free_size,
            reclaimable_size,
            available_size,
            swap_total_size: 0,
            swap_used_size: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n\
                           Cached: 11000000 kB\nSwapTotal:       2000000 kB\nSwapFree:        1500000 kB\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_a_limit_the_host_counts() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "1\n"),
        ]);
        let memory = HostMemory::read_in(root.path()).unwrap();
        assert_eq!(memory.source, MemorySource::Host);
        assert_eq!((memory.total_size, memory.available_size), (16_000_000 << 10, 12_000_000 << 10));
        assert_eq!((memory.free_size, memory.reclaimable_size), (1_000_000 << 10, 11_000_000 << 10));
        assert_eq!((memory.used_size, memory.swap_used_size), (4_000_000 << 10, 500_000 << 10));
    }

    /// TRAP-20: a cgroup that is full of page cache is not exhausted.
    #[test]
    fn page_cache_of_a_cgroup_is_available() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "990000\n"),
            (
                "sys/fs/cgroup/a/b/memory.stat",
                "anon 90000\nfile 900000\nshmem 100000\ninactive_file 600000\nactive_file 200000\nslab_reclaimable 10000\n",
            ),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
        ]);
        let memory = HostMemory::read_in(root.path()).unwrap();
        assert_eq!(memory.source, MemorySource::CgroupV2);
        assert_eq!((memory.total_size, memory.free_size, memory.reclaimable_size), (1_000_000, 10_000, 810_000));
        assert_eq!((memory.available_size, memory.used_size), (820_000, 180_000));
    }

    #[test]
    fn what_a_cgroup_is_slowed_down_at_is_a_limit() {
        let (current, high) = (("sys/fs/cgroup/a/memory.current", "200000\n"), "sys/fs/cgroup/a/memory.high");
        let of = |maximum, high_value| {
            let maximum = ("sys/fs/cgroup/a/memory.max", maximum);
            let root = tree(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a\n"),
                current,
                maximum,
                (high, high_value),
            ]);
            HostMemory::read_in(root.path()).unwrap().total_size
        };
        assert_eq!(of("500000\n", "300000\n"), 300_000);
        assert_eq!(of("500000\n", "600000\n"), 500_000);
        assert_eq!(of("max\n", "300000\n"), 300_000);
        assert_eq!(of("500000\n", "max\n"), 500_000);
        assert_eq!(of("max\n", "max\n"), 16_000_000 << 10);
    }

    #[test]
    fn the_cgroup_that_leaves_the_least_counts() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "900000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100000\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "950000\n"),
        ]);
        let memory = HostMemory::read_in(root.path()).unwrap();
        assert_eq!((memory.total_size, memory.available_size), (1_000_000, 50_000));
    }

    #[test]
    fn version_1_has_its_own_names_and_no_limit_that_is_one() {
        let group = "9:name=systemd:/\n4:cpu,memory:/pod\n0::/\n";
        let files = |limit| {
            [
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", group),
                ("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "700000\n"),
                (
                    "sys/fs/cgroup/memory/pod/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 500000\ntotal_active_file 100000\n",
                ),
            ]
        };
        let memory = HostMemory::read_in(tree(&files("800000\n")).path()).unwrap();
        assert_eq!((memory.source, memory.available_size), (MemorySource::CgroupV1, 700_000));
        let memory = HostMemory::read_in(tree(&files("9223372036854771712\n")).path()).unwrap();
        assert_eq!(memory.source, MemorySource::Host);
    }

    #[test]
    fn a_container_may_see_its_own_cgroup_at_the_top() {
        let root = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/not/to/be/seen\n"),
            ("sys/fs/cgroup/memory.max", "500000\n"),
            ("sys/fs/cgroup/memory.current", "200000\n"),
        ]);
        assert_eq!(HostMemory::read_in(root.path()).unwrap().available_size, 300_000);
    }

    #[test]
    fn pressure_is_that_of_the_cgroup_where_there_is_one() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=2.00 avg60=0.00 avg300=0.00 total=1\n";
        let host = [("proc/self/cgroup", "0::/a\n"), ("proc/pressure/memory", text)];
        assert_eq!(
            Pressure::read_in(tree(&host).path()),
            Some(Pressure { some: 0.125, full: 0.02, full_total: Duration::from_micros(1) })
        );
        let own = ("sys/fs/cgroup/a/memory.pressure", "some avg10=50.00 avg60=1.00 avg300=0.00 total=5\n");
        let group = [host[0], host[1], own];
        assert_eq!(
            Pressure::read_in(tree(&group).path()),
            Some(Pressure { some: 0.5, full: 0.0, full_total: Duration::ZERO })
        );
        assert_eq!(Pressure::read_in(tree(&[]).path()), None);
    }

    #[test]
    fn pressure_is_that_of_all_children_where_each_has_a_cgroup() {
        let line = |average: &str| format!("some avg10={average} avg60=0.00 avg300=0.00 total=5\n");
        let (all, own) = (line("50.00"), line("10.00"));
        for (group, some) in [
            ("unit/shop-42/supervisor#1@1", 0.5),
            ("unit/shop-42/supervisor#1@2.1", 0.5),
            ("unit/shop-42/supervisor", 0.1),
            ("system.slice/shop@1.service", 0.1),
            ("system.slice/shop@1", 0.1),
        ] {
            let around = Path::new(group).parent().unwrap().display();
            let root = tree(&[
                ("proc/self/cgroup", &format!("0::/{group}\n")),
                (&format!("sys/fs/cgroup/{group}/memory.pressure"), &own),
                (&format!("sys/fs/cgroup/{around}/memory.pressure"), &all),
            ]);
            assert_eq!(Pressure::read_in(root.path()).map(|pressure| pressure.some), Some(some), "{group}");
        }
    }

    #[test]
    fn this_host_has_memory() {
        let memory = HostMemory::read().unwrap();
        assert!(memory.available_size > 0 && memory.available_size <= memory.total_size, "{memory:?}");
    }
}
