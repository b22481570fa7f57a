//! Users of this machine as a configuration names them: `sdp-build`, or `64100:64100`.
//!
//! Called by `file`. Names are looked up in `/etc/passwd` alone, so that an executable without a C library's name service
//! finds the same as any other; users of a directory are named by their numbers.

use std::path::Path;

use super::User;

/// Where names are looked up.
pub(super) const PASSWD: &str = "/etc/passwd";

/// Reads a user; what is wrong is said as a clause.
pub(super) fn parse(text: &str, passwd: &Path) -> Result<User, String> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    if let Some((uid, gid)) = text.split_once(':') {
        return match (number(uid), number(gid)) {
            (Some(uid), Some(gid)) => Ok(User { uid, gid }),
            _ => Err(format!("{text:?} is neither a name nor two numbers such as 64100:64100")),
        };
    }
    if number(text).is_some() {
        return Err(format!("the group is missing: {text}:<group>"));
    }
    let lines = std::fs::read_to_string(passwd)
        .map_err(|error| format!("cannot read {}: {error}", passwd.display()))?;
    let found = lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        (name == text).then(|| Some(User { uid: number(uid)?, gid: number(gid)? })).flatten()
    });
    found.ok_or_else(|| format!("there is no user {text:?} in {}", passwd.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_of_this_machine_or_two_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(&passwd, "root:x:0:0:root:/root:/bin/sh\nsdp-build:x:998:997::/:/bin/false\nodd\n")
            .unwrap();
        let parse = |text| {
            parse(text, &passwd).map_err(|problem| problem.replace(passwd.to_str().unwrap(), "PASSWD"))
        };
        assert_eq!(parse("sdp-build"), Ok(User { uid: 998, gid: 997 }));
        assert_eq!(parse("64100:64101"), Ok(User { uid: 64100, gid: 64101 }));
        let said = ["nobody", "64100", "a:b", "1:4294967295", "odd", ""].map(|text| parse(text).unwrap_err());
        insta::assert_snapshot!(said.join("\n"), @r#"
        there is no user "nobody" in PASSWD
        the group is missing: 64100:<group>
        "a:b" is neither a name nor two numbers such as 64100:64100
        "1:4294967295" is neither a name nor two numbers such as 64100:64100
        there is no user "odd" in PASSWD
        there is no user "" in PASSWD
        "#);
    }
}
