//! Whom a command runs as.

use std::ffi::{CString, OsString};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::error::CommandError;
use crate::sys::spawn::Credentials;

/// A user and its groups, and what its environment says of it.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub credentials: Option<Credentials>,
    pub environment: Vec<(OsString, OsString)>,
}

impl Identity {
    /// Looks up names or numbers. Without either, everything stays as it is.
    pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> Result<Identity, CommandError> {
        let group = group.map(find_group).transpose()?;
        let Some(name) = user else {
            // Another group alone, for the same user.
            let credentials = group.map(|group| Credentials {
                user: Uid::effective().as_raw(),
                group: group.as_raw(),
                groups: vec![group.as_raw()],
            });
            return Ok(Identity { credentials, environment: Vec::new() });
        };
        let number = name.parse().ok().map(Uid::from_raw);
        let entry = match number {
            Some(number) => User::from_uid(number).ok().flatten(),
            None => User::from_name(name).ok().flatten(),
        };
        match (entry, number) {
            (Some(entry), _) => Ok(Identity::of(&entry, group)),
            (None, Some(number)) => {
                let group = group.unwrap_or(Gid::from_raw(number.as_raw())).as_raw();
                let credentials = Credentials { user: number.as_raw(), group, groups: Vec::new() };
                Ok(Identity { credentials: Some(credentials), environment: Vec::new() })
            }
            (None, None) => Err(CommandError::NoUser { user: name.to_owned() }),
        }
    }

    fn of(entry: &User, group: Option<Gid>) -> Identity {
        let group = group.unwrap_or(entry.gid);
        let name = CString::new(entry.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, group).unwrap_or_else(|_| vec![group]);
        let environment = [
            ("HOME", entry.dir.clone().into_os_string()),
            ("USER", entry.name.clone().into()),
            ("LOGNAME", entry.name.clone().into()),
            ("SHELL", entry.shell.clone().into_os_string()),
        ];
        Identity {
            credentials: Some(Credentials {
                user: entry.uid.as_raw(),
                group: group.as_raw(),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
            }),
            environment: environment.map(|(name, value)| (name.into(), value)).into(),
        }
    }
}

fn find_group(name: &str) -> Result<Gid, CommandError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let entry = Group::from_name(name).ok().flatten();
    entry.map(|entry| entry.gid).ok_or_else(|| CommandError::NoGroup { group: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = Identity::find(Some("root"), None).unwrap();
        assert_eq!(root.credentials.as_ref().map(|credentials| (credentials.user, credentials.group)), Some((0, 0)));
        assert!(root.environment.iter().any(|(name, value)| name == "USER" && value == "root"));
        assert_eq!(Identity::find(Some("0"), None).unwrap().credentials, root.credentials);
        let stranger = Identity::find(Some("3999999"), Some("7")).unwrap().credentials.unwrap();
        assert_eq!(stranger, Credentials { user: 3_999_999, group: 7, groups: Vec::new() });
        assert!(Identity::find(None, None).unwrap().credentials.is_none());
    }

    #[test]
    fn those_that_do_not_exist_are_named() {
        let error = Identity::find(Some("no-such-user"), None).unwrap_err();
        assert_eq!(error.to_string(), "there is no user \"no-such-user\"");
        let error = Identity::find(None, Some("no-such-group")).unwrap_err();
        assert_eq!(error.to_string(), "there is no group \"no-such-group\"");
    }
}
