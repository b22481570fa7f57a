//! Apache's configuration for a PHP site, made from numbers alone: the site's folder reaches it in a variable, which Apache
//! takes as it is, so that no name is ever quoted.
//!
//! It takes the place of the image's own, which wants to be started as root and to write below `/var`. Of the image it
//! relies on what the official one has: `apache2-foreground`, `/etc/apache2/mods-enabled`, `/usr/lib/apache2/modules`.
//! All that Apache writes is in [`RUN`], below the container's `/tmp`.

use std::collections::BTreeMap;

/// Where the repository's top is.
pub(super) const APP: &str = "/app";
/// Apache's folder for its own.
const RUN: &str = "/tmp/apache2";
/// What is reckoned with when the service has no limit of its own, in MiB.
const USUAL_MEMORY: u32 = 512;
/// What one PHP process may take, in MiB; a page's own limit (`memory_limit`) is four times this and seldom reached.
const PER_WORKER: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// How many requests are worked on at once.
    pub(super) workers: u32,
    /// Whether composer's packages lie in what is served.
    pub(super) vendor_is_served: bool,
}

/// How many requests fit into the memory, and into the number of processes.
pub(super) fn workers(memory_mib: Option<u32>, pids: Option<u32>) -> u32 {
    let by_memory = memory_mib.unwrap_or(USUAL_MEMORY) / PER_WORKER;
    // Beside them: Apache's first process, and what a page may start.
    let by_processes = pids.map_or(u32::MAX, |pids| pids / 2);
    by_memory.min(by_processes).clamp(2, 150)
}

/// What `apache2-foreground` and the configuration read.
pub(super) fn env(document_root: &str) -> BTreeMap<String, String> {
    let pid_file = format!("{RUN}/apache2.pid");
    [
        ("APACHE_DOCUMENT_ROOT", document_root),
        ("APACHE_RUN_DIR", RUN),
        ("APACHE_LOCK_DIR", RUN),
        ("APACHE_LOG_DIR", RUN),
        ("APACHE_PID_FILE", &pid_file),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

pub(super) fn render(settings: &Settings) -> String {
    let Settings { workers, vendor_is_served } = *settings;
    let spare = workers.min(4);
    // Modules that sites take for granted, of which the image has more than it turns on.
    let modules: String = ["rewrite", "headers", "expires", "remoteip"].map(module).concat();
    let vendor = if vendor_is_served { VENDOR } else { "" };
    format!(
        r#"# Written by sdp-agent for this deployment; the image's own configuration is not used.
ServerRoot /etc/apache2
ServerName localhost
Listen ${{PORT}}
PidFile {RUN}/apache2.pid
DefaultRuntimeDir {RUN}
Mutex file:{RUN} default

# What the image has turned on, and what sites take for granted.
IncludeOptional /etc/apache2/mods-enabled/*.load
{modules}IncludeOptional /etc/apache2/mods-enabled/mime.conf
IncludeOptional /etc/apache2/mods-enabled/deflate.conf

# One process for each request that is worked on. A connection that is kept open would keep one that does nothing.
<IfModule mpm_prefork_module>
    StartServers 2
    MinSpareServers 1
    MaxSpareServers {spare}
    ServerLimit {workers}
    MaxRequestWorkers {workers}
    MaxConnectionsPerChild 1000
</IfModule>
KeepAlive Off
Timeout 60
GracefulShutdownTimeout 10

ServerTokens Prod
ServerSignature Off
TraceEnable Off
UseCanonicalName Off

ErrorLog /proc/self/fd/2
LogLevel warn
LogFormat "%a \"%r\" %>s %O bytes %{{ms}}T ms" sdp
CustomLog /proc/self/fd/1 sdp

# The router says where a request came from, and over what.
<IfModule remoteip_module>
    RemoteIPHeader X-Forwarded-For
    RemoteIPInternalProxy 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 ::1/128 fc00::/7
</IfModule>
<IfModule setenvif_module>
    SetEnvIf X-Forwarded-Proto "^https$" HTTPS=on
</IfModule>

DocumentRoot "${{APACHE_DOCUMENT_ROOT}}"
DirectoryIndex index.php index.html
<Directory />
    Options FollowSymLinks
    AllowOverride None
    Require all denied
</Directory>
<Directory {APP}>
    Options FollowSymLinks
    AllowOverride All
    Require all granted
</Directory>

# What is committed beside a site and not meant for its visitors.
<DirectoryMatch "/\.(?!well-known(/|$))">
    Require all denied
</DirectoryMatch>
<FilesMatch "^\.(?!well-known$)|^(composer\.(json|lock|phar)|auth\.json)$">
    Require all denied
</FilesMatch>
{vendor}
<FilesMatch "\.php$">
    SetHandler application/x-httpd-php
</FilesMatch>
<IfModule php_module>
    php_flag display_errors off
    php_flag log_errors on
    php_value session.save_path /tmp
    php_admin_value upload_tmp_dir /tmp
    php_admin_flag expose_php off
</IfModule>
<IfModule !php_module>
    # An image without PHP: never the source instead of the page.
    <FilesMatch "\.php$">
        Require all denied
    </FilesMatch>
</IfModule>
"#
    )
}

/// Packages hold pages that were never meant to be asked for; pictures and styles in them are.
const VENDOR: &str = r#"<LocationMatch "^/vendor/.*\.php$">
    Require all denied
</LocationMatch>
"#;

fn module(name: &str) -> String {
    format!(
        "<IfModule !{name}_module>\n    <IfFile /usr/lib/apache2/modules/mod_{name}.so>\n        \
         LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n    </IfFile>\n</IfModule>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_the_same_but_for_numbers() {
        insta::assert_snapshot!(render(&Settings { workers: 16, vendor_is_served: true }), @r#"
        # Written by sdp-agent for this deployment; the image's own configuration is not used.
        ServerRoot /etc/apache2
        ServerName localhost
        Listen ${PORT}
        PidFile /tmp/apache2/apache2.pid
        DefaultRuntimeDir /tmp/apache2
        Mutex file:/tmp/apache2 default

        # What the image has turned on, and what sites take for granted.
        IncludeOptional /etc/apache2/mods-enabled/*.load
        <IfModule !rewrite_module>
            <IfFile /usr/lib/apache2/modules/mod_rewrite.so>
                LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so
            </IfFile>
        </IfModule>
        <IfModule !headers_module>
            <IfFile /usr/lib/apache2/modules/mod_headers.so>
                LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
            </IfFile>
        </IfModule>
        <IfModule !expires_module>
            <IfFile /usr/lib/apache2/modules/mod_expires.so>
                LoadModule expires_module /usr/lib/apache2/modules/mod_expires.so
            </IfFile>
        </IfModule>
        <IfModule !remoteip_module>
            <IfFile /usr/lib/apache2/modules/mod_remoteip.so>
                LoadModule remoteip_module /usr/lib/apache2/modules/mod_remoteip.so
            </IfFile>
        </IfModule>
        IncludeOptional /etc/apache2/mods-enabled/mime.conf
        IncludeOptional /etc/apache2/mods-enabled/deflate.conf

        # One process for each request that is worked on. A connection that is kept open would keep one that does nothing.
        <IfModule mpm_prefork_module>
            StartServers 2
            MinSpareServers 1
            MaxSpareServers 4
            ServerLimit 16
            MaxRequestWorkers 16
            MaxConnectionsPerChild 1000
        </IfModule>
        KeepAlive Off
        Timeout 60
        GracefulShutdownTimeout 10

        ServerTokens Prod
        ServerSignature Off
        TraceEnable Off
        UseCanonicalName Off

        ErrorLog /proc/self/fd/2
        LogLevel warn
        LogFormat "%a \"%r\" %>s %O bytes %{ms}T ms" sdp
        CustomLog /proc/self/fd/1 sdp

        # The router says where a request came from, and over what.
        <IfModule remoteip_module>
            RemoteIPHeader X-Forwarded-For
            RemoteIPInternalProxy 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 ::1/128 fc00::/7
        </IfModule>
        <IfModule setenvif_module>
            SetEnvIf X-Forwarded-Proto "^https$" HTTPS=on
        </IfModule>

        DocumentRoot "${APACHE_DOCUMENT_ROOT}"
        DirectoryIndex index.php index.html
        <Directory />
            Options FollowSymLinks
            AllowOverride None
            Require all denied
        </Directory>
        <Directory /app>
            Options FollowSymLinks
            AllowOverride All
            Require all granted
        </Directory>

        # What is committed beside a site and not meant for its visitors.
        <DirectoryMatch "/\.(?!well-known(/|$))">
            Require all denied
        </DirectoryMatch>
        <FilesMatch "^\.(?!well-known$)|^(composer\.(json|lock|phar)|auth\.json)$">
            Require all denied
        </FilesMatch>
        <LocationMatch "^/vendor/.*\.php$">
            Require all denied
        </LocationMatch>

        <FilesMatch "\.php$">
            SetHandler application/x-httpd-php
        </FilesMatch>
        <IfModule php_module>
            php_flag display_errors off
            php_flag log_errors on
            php_value session.save_path /tmp
            php_admin_value upload_tmp_dir /tmp
            php_admin_flag expose_php off
        </IfModule>
        <IfModule !php_module>
            # An image without PHP: never the source instead of the page.
            <FilesMatch "\.php$">
                Require all denied
            </FilesMatch>
        </IfModule>
        "#);
        let without = render(&Settings { workers: 3, vendor_is_served: false });
        assert!(!without.contains("vendor"));
        assert!(
            without.contains("MaxSpareServers 3\n") && without.contains("MaxRequestWorkers 3\n"),
            "{without}"
        );
    }

    #[test]
    fn so_many_requests_are_worked_on_as_fit() {
        for (memory, pids, expected) in [
            (None, None, 16),
            (Some(16), None, 2),
            (Some(1024), None, 32),
            (Some(1024), Some(20), 10),
            (Some(1_048_576), None, 150),
            (None, Some(2), 2),
        ] {
            assert_eq!(workers(memory, pids), expected, "{memory:?} {pids:?}");
        }
    }
}
