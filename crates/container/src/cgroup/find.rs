//! Which cgroup is for this program to make others in.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Access;

use crate::error::CgroupError;

/// What systemd sets on a cgroup that it has delegated; the second where it may set no attribute of the first kind.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// Endings of the names that systemd gives to cgroups of its own.
const UNITS: [&str; 3] = ["service", "scope", "slice"];

/// The cgroup of this process, in the file system of version 2.
pub(super) fn own() -> Result<PathBuf, CgroupError> {
    let action = "read";
    let read = |path: &str| {
        std::fs::read(path).map_err(|error| CgroupError::System { action, path: path.into(), source: Arc::new(error) })
    };
    let mounted = mount(&read("/proc/self/mountinfo")?, |kind, _| kind == b"cgroup2");
    let cgroup = path(&read("/proc/self/cgroup")?, |id, _| id == b"0");
    mounted.zip(cgroup).and_then(|(mounted, cgroup)| below(mounted, &cgroup)).ok_or(CgroupError::NotMounted)
}

/// The cgroup of this process in the file system of version 1 that counts memory, if there is one.
pub(super) fn own_of_memory() -> Option<PathBuf> {
    let is_one = |controllers: &[u8]| controllers.split(|byte| *byte == b',').any(|name| name == b"memory");
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    let mounted = mount(&mountinfo, |kind, options| kind == b"cgroup" && is_one(options))?;
    let cgroup = path(&std::fs::read("/proc/self/cgroup").ok()?, |_, controllers| is_one(controllers))?;
    below(mounted, &cgroup)
}

/// Where a cgroup is to be found. The mount may show a part only, in which this process need not be.
fn below((root, point): (PathBuf, PathBuf), cgroup: &Path) -> Option<PathBuf> {
    let below = cgroup.strip_prefix(&root).ok()?;
    Some(if below.as_os_str().is_empty() { point } else { point.join(below) })
}

/// The cgroup that is delegated to this program, which is in the cgroup `own`.
pub(super) fn delegated(own: &Path) -> Result<PathBuf, CgroupError> {
    let refused = || CgroupError::NotDelegated { path: own.to_path_buf() };
    if is_delegated(own) {
        return Ok(own.to_path_buf());
    }
    // As with DelegateSubgroup= of systemd.
    match own.parent() {
        Some(parent) if !is_unit(own) && is_marked(parent) && is_writable(parent) => Ok(parent.to_path_buf()),
        _ => Err(refused()),
    }
}

/// Everything is writable to a privileged process, but what somebody else manages is not for it to change. So it has to be
/// marked, or be the first that a container sees, or, for an unprivileged process, the first that it may change.
fn is_delegated(path: &Path) -> bool {
    if is_root(path) || !is_writable(path) {
        return false;
    }
    let Some(parent) = path.parent() else { return false };
    // Above the first cgroup that a container sees there is no cgroup.
    let is_first = !parent.join("cgroup.procs").exists();
    is_first || is_marked(path) || !(rustix::process::geteuid().is_root() || is_writable(parent))
}

/// True for the cgroup above all others of the machine. It alone has no file that tells whether it is populated.
pub(super) fn is_root(path: &Path) -> bool {
    !path.join("cgroup.events").exists()
}

fn is_writable(path: &Path) -> bool {
    [path, &path.join("cgroup.procs")].iter().all(|path| rustix::fs::access(*path, Access::WRITE_OK).is_ok())
}

fn is_marked(path: &Path) -> bool {
    let mut value = [0; 1];
    DELEGATED.iter().any(|name| rustix::fs::getxattr(path, *name, &mut value) == Ok(1) && value == *b"1")
}

fn is_unit(path: &Path) -> bool {
    path.extension().is_some_and(|ending| UNITS.iter().any(|unit| ending == *unit))
}

/// What of a file system, known by its kind and its options, is mounted, and where; see proc_pid_mountinfo(5).
fn mount(mountinfo: &[u8], is_it: impl Fn(&[u8], &[u8]) -> bool) -> Option<(PathBuf, PathBuf)> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-");
        let (kind, options) = (fields.nth(1)?, fields.nth(1)?);
        is_it(kind, options).then(|| (unescaped(root), unescaped(point)))
    })
}

/// Blanks, tabs, line ends and backslashes are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// The path of a process in a hierarchy, known by its number and its controllers, from its file `cgroup`; see cgroups(7).
fn path(cgroup: &[u8], is_it: impl Fn(&[u8], &[u8]) -> bool) -> Option<PathBuf> {
    let path = cgroup.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        is_it(id, controllers).then_some(path)
    })?;
    // Of a process that has left the part that this one sees.
    let is_outside = path.starts_with(b"/..");
    (!is_outside).then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// Checks that cgroups can be made in the directory.
pub(super) fn check(path: &Path) -> Result<(), CgroupError> {
    let kind = rustix::fs::statfs(path).map_err(|error| CgroupError::System {
        action: "look at",
        path: path.into(),
        source: Arc::new(error.into()),
    })?;
    if kind.f_type as u64 != CGROUP2_MAGIC {
        return Err(CgroupError::NotACgroup { path: path.to_path_buf() });
    }
    Ok(())
}

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_version_2_is_found() {
        let text = b"25 1 0:23 / /sys rw - sysfs sysfs rw\n\
            31 25 0:38 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 /a\\040b /sys/fs/cgroup\\134x rw,relatime shared:5 master:1 - cgroup2 cgroup2 rw\n";
        let mount = |text: &[u8]| mount(text, |kind, _| kind == b"cgroup2");
        assert_eq!(mount(text), Some(("/a b".into(), "/sys/fs/cgroup\\x".into())));
        assert_eq!(mount(b"25 1 0:23 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(mount(b""), None);
        let of_memory = super::mount(text, |kind, options| kind == b"cgroup" && options == b"rw,memory");
        assert_eq!(of_memory, Some(("/".into(), "/sys/fs/cgroup/memory".into())));
    }

    #[test]
    fn the_path_of_version_2_is_found() {
        let text = b"4:cpu,memory:/x:y\n0::/system.slice/app.service\n";
        assert_eq!(super::path(text, |_, controllers| controllers == b"cpu,memory"), Some("/x:y".into()));
        let path = |text: &[u8]| path(text, |id, _| id == b"0");
        assert_eq!(path(text), Some("/system.slice/app.service".into()));
        assert_eq!(path(b"0::/\n"), Some("/".into()));
        assert_eq!(path(b"0::/../other\n"), None);
        assert_eq!(path(b"4:memory:/x\n"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(check(directory.path()), Err(CgroupError::NotACgroup { .. })));
        assert!(matches!(check(&directory.path().join("missing")), Err(CgroupError::System { .. })));
        assert!(matches!(delegated(directory.path()), Err(CgroupError::NotDelegated { .. })));
    }
}
