//! The arguments of `coring run` that are about its process: user, groups, umask, names.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use coring::process::become_user;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, umask};
use rustix::thread::set_name;

use super::RunError;
use super::convert::with_base;
use super::pidfile::Pidfile;

/// The user, the groups and the names of the process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessArgs {
    /// The user to become when the addresses are bound: a name of /etc/passwd, or a number
    #[arg(long, env = "CORING_USER", value_name = "USER")]
    user: Option<String>,

    /// The group to have then: a name of /etc/group, or a number [default: the user's]
    #[arg(long, env = "CORING_GROUP", value_name = "GROUP")]
    group: Option<String>,

    /// Have the further groups that /etc/group gives the user, too
    #[arg(long, env = "CORING_INITGROUPS", value_parser = FalseyValueParser::new())]
    initgroups: bool,

    /// The bits of permissions that new files lack, Unix sockets included: octal with a leading 0,
    /// as in 077
    #[arg(long, env = "CORING_UMASK", value_name = "MODE", value_parser = mask)]
    umask: Option<u32>,

    /// A file for the process id
    #[arg(long, env = "CORING_PIDFILE", value_name = "FILE")]
    pub(super) pidfile: Option<PathBuf>,

    /// The name of the processes, for ps and top: the first 15 bytes, with /NUMBER for workers
    #[arg(long, env = "CORING_PROC_NAME", value_name = "NAME")]
    pub(crate) proc_name: Option<String>,
}

/// A user, its group, and all groups that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl ProcessArgs {
    /// Whether the process is to become another user, or to have another group.
    pub(crate) fn changes_user(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }

    /// Takes the name and the umask. To be called before files are made.
    pub(crate) fn begin(&self) {
        if let Some(mask) = self.umask {
            umask(Mode::from_raw_mode(mask));
        }
        let name = self.proc_name.as_deref().map(CString::new);
        if let Some(Ok(name)) = name {
            // It concerns what others see only.
            let _ = set_name(&name);
        }
    }

    /// Writes the pidfile, then gives up the privileges of the user before. The new user owns the
    /// Unix sockets of `addresses` and the `logs`. To be called when all addresses are bound, and
    /// before Python starts. The pidfile is removed with the result.
    ///
    /// # Errors
    /// When another process has the pidfile, there is no such user, or it cannot be become.
    pub(crate) fn drop_privileges(
        &self,
        addresses: &[String],
        logs: &[PathBuf],
    ) -> Result<Option<Pidfile>, RunError> {
        let identity = self.identity().map_err(RunError::Configuration)?;
        let pidfile = self.pidfile.as_deref().map(Pidfile::create).transpose()?;
        let Some(identity) = identity else {
            return Ok(pidfile);
        };
        let failed = |what: String, error: &io::Error| {
            let cure = "start coring as root, or leave out --user and --group";
            RunError::Setting(format!("{what}: {error}; {cure}"))
        };
        let Identity { uid, gid, groups } = identity;
        let sockets = addresses
            .iter()
            .filter_map(|address| address.strip_prefix("unix:"));
        for path in sockets.filter(|path| !path.starts_with('@')) {
            let given = lchown(path, Some(uid), Some(gid));
            given.map_err(|error| failed(format!("cannot give {path} away"), &error))?;
        }
        for path in logs {
            let what = || format!("cannot give the log {} away", path.display());
            give_log(path, uid, gid).map_err(|error| failed(what(), &error))?;
        }
        let become_it = become_user(uid, gid, &groups);
        become_it.map_err(|error| failed(format!("cannot become user {uid}"), &error))?;
        Ok(pidfile)
    }

    /// The identity to take; none if it is the present one.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub(super) fn identity(&self) -> Result<Option<Identity>, String> {
        if !self.changes_user() {
            return Ok(None);
        }
        let read = |path: &str| {
            let text = fs::read_to_string(path);
            text.or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(String::new()),
                _ => Err(format!("cannot read {path}: {error}")),
            })
        };
        let (users, groups) = (read("/etc/passwd")?, read("/etc/group")?);
        let identity = self.identity_in(&users, &groups)?;
        let is_current = identity.uid == geteuid().as_raw() && identity.gid == getegid().as_raw();
        // Without privileges nothing can be changed, and nothing has to be.
        Ok((!is_current || geteuid().is_root()).then_some(identity))
    }

    fn identity_in(&self, users: &str, groups: &str) -> Result<Identity, String> {
        let found = self.user.as_deref().map(|name| entry(users, name));
        let name_of = |fields: &[&str]| fields[0].to_owned();
        let (uid, user_name, user_gid) = match (&self.user, found.flatten()) {
            (None, _) => (geteuid().as_raw(), None, Some(getegid().as_raw())),
            (Some(_), Some((uid, fields))) => {
                let gid = fields.get(3).and_then(|gid| gid.parse().ok());
                (uid, Some(name_of(&fields)), gid)
            }
            (Some(user), None) => {
                let number = number(user).ok_or_else(|| {
                    format!("there is no user `{user}` in /etc/passwd; give a number, perhaps")
                })?;
                (number, None, None)
            }
        };
        let gid = match &self.group {
            Some(group) => match (entry(groups, group), number(group)) {
                (Some((gid, _)), _) | (None, Some(gid)) => gid,
                (None, None) => {
                    return Err(format!(
                        "there is no group `{group}` in /etc/group; give a number, perhaps"
                    ));
                }
            },
            None => user_gid.ok_or_else(|| {
                format!("user {uid} is not in /etc/passwd and so has no group; give --group")
            })?,
        };
        let mut all = vec![gid];
        if let (true, Some(name)) = (self.initgroups, user_name) {
            for line in groups.lines() {
                let fields: Vec<&str> = line.split(':').collect();
                let members = fields.get(3).copied().unwrap_or_default();
                if members.split(',').any(|member| member == name)
                    && let Some(Ok(other)) = fields.get(2).map(|gid| gid.parse())
                    && other != gid
                {
                    all.push(other);
                }
            }
        }
        Ok(Identity {
            uid,
            gid,
            groups: all,
        })
    }
}

/// The number of a user or a group. The greatest one means no change to the kernel, setresuid(2).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// The number and all fields of a user or a group, by its name or its number.
fn entry<'a>(file: &'a str, name: &str) -> Option<(u32, Vec<&'a str>)> {
    file.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let text = *fields.get(2)?;
        let is_it = fields[0] == name || text == name;
        Some((number(text).filter(|_| is_it)?, fields))
    })
}

/// Makes a log, if there is none, and gives it to the new user.
///
/// The new user may be able to write to the log's directory. A link that was put there must not
/// have this process, which is privileged, make or give away another file: then nothing is done,
/// and the new user opens what the link names.
fn give_log(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    let file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(()),
        opened => opened?,
    };
    let found = file.metadata()?;
    match found.is_file() && found.nlink() == 1 {
        true => fchown(&file, Some(uid), Some(gid)),
        false => Ok(()),
    }
}

/// A mask as gunicorn reads it: octal with a leading 0 or 0o, hexadecimal with 0x, else decimal.
fn mask(text: &str) -> Result<u32, String> {
    let number = match text {
        "0" => Some(0),
        text => with_base(text, &[("0x", 16), ("0o", 8), ("0", 8), ("", 10)]),
    };
    let mask = number.and_then(|number| number.try_into().ok());
    mask.filter(|mask| *mask <= 0o777)
        .ok_or_else(|| "give it as an octal number up to 0777, as in 027".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nweb:x:33:\nlogs:x:4:web,other\nssl:x:5:other\n";

    fn identity(
        user: Option<&str>,
        group: Option<&str>,
        initgroups: bool,
    ) -> Result<Identity, String> {
        let arguments = ProcessArgs {
            user: user.map(str::to_owned),
            group: group.map(str::to_owned),
            initgroups,
            umask: None,
            pidfile: None,
            proc_name: None,
        };
        arguments.identity_in(USERS, GROUPS)
    }

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        for (user, group, initgroups, (uid, gid, groups)) in [
            ("web", None, false, (33, 33, &[33][..])),
            ("33", None, false, (33, 33, &[33])),
            ("web", Some("ssl"), false, (33, 5, &[5])),
            ("web", Some("77"), false, (33, 77, &[77])),
            ("web", None, true, (33, 33, &[33, 4])),
            ("33", Some("logs"), true, (33, 4, &[4])),
            ("65534", Some("65534"), true, (65534, 65534, &[65534])),
        ] {
            let expected = Identity {
                uid,
                gid,
                groups: groups.to_vec(),
            };
            assert_eq!(
                identity(Some(user), group, initgroups),
                Ok(expected),
                "{user} {group:?}"
            );
        }
        for (user, group, part) in [
            ("nobody", None, "no user `nobody` in /etc/passwd"),
            ("65534", None, "give --group"),
            ("4294967295", Some("33"), "no user `4294967295`"),
            ("web", Some("4294967295"), "no group `4294967295`"),
            ("web", Some("none"), "no group `none` in /etc/group"),
        ] {
            let error = identity(Some(user), group, false).expect_err(user);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_mask_is_read_as_gunicorn_reads_it() {
        for (text, expected) in [
            ("0", 0),
            ("022", 0o22),
            ("0o27", 0o27),
            ("0xFF", 0o377),
            ("18", 0o22),
        ] {
            assert_eq!(mask(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "+7", "0+7", "08", "01000", "0x", "rwx"] {
            assert!(mask(text).is_err(), "{text}");
        }
    }
}
