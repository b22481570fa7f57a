//! Identifiers: opaque, sortable by creation where it helps, parsed at the edge, never passed around as strings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}")]
pub struct InvalidId {
    what: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = Uuid))]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier; later ones sort after earlier ones (UUID version 7).
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The identifier as a UUID.
            #[must_use]
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only the canonical form: an id has one spelling in paths, logs and file names.
                match Uuid::try_parse(text) {
                    Ok(uuid) if uuid.as_hyphenated().to_string() == text => Ok(Self(uuid)),
                    _ => Err(InvalidId { what: $what }),
                }
            }
        }
    };
}

uuid_id!(
    /// A browser's session; it opens nothing.
    SessionId, "session id"
);
uuid_id!(
    /// What says which account a user of a chat is.
    BindingId, "binding id"
);
uuid_id!(
    /// One deployment.
    DeploymentId, "deployment id"
);
uuid_id!(
    /// Several deployments that were asked for together.
    BatchId, "batch id"
);
uuid_id!(
    /// A lock or a freeze.
    LockId, "lock id"
);
uuid_id!(
    /// One running copy of a service.
    InstanceId, "instance id"
);
uuid_id!(
    /// One command to an agent; the same id has the same answer and no second effect.
    CommandId, "command id"
);
uuid_id!(
    /// One life of an agent process.
    BootId, "boot id"
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(value_type = u64))]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| text.parse().ok()).flatten().map(Self).ok_or(InvalidId { what: $what })
            }
        }
    };
}

number!(
    /// An event's place in the one global sequence; the first is 1, 0 means "before everything".
    EventSeq, "event number"
);
number!(
    /// A deployment's short number, what people say: "412".
    DeploymentNumber, "deployment number"
);
number!(
    /// The version of a route table; a higher one replaces a lower one.
    RouteVersion, "route version"
);
number!(
    /// How many hellos of an agent the server has accepted; the newest wins.
    Epoch, "epoch"
);

/// How people and programs name a deployment: by id or by number (`412`, `#412`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeploymentRef {
    /// By its id.
    Id(DeploymentId),
    /// By its short number.
    Number(DeploymentNumber),
}

impl From<DeploymentId> for DeploymentRef {
    fn from(id: DeploymentId) -> Self {
        Self::Id(id)
    }
}

impl FromStr for DeploymentRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_prefix('#').unwrap_or(text);
        number
            .parse()
            .map(Self::Number)
            .or_else(|_| text.parse().map(Self::Id))
            .map_err(|_| InvalidId { what: "deployment id or number" })
    }
}

impl fmt::Display for DeploymentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = DeploymentId::new();
        assert_eq!(id.to_string().parse::<DeploymentId>(), Ok(id));
        for other in
            [id.to_string().to_uppercase(), id.as_uuid().simple().to_string(), "../1".into(), "1;drop".into()]
        {
            assert!(other.parse::<DeploymentId>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_deployment_is_named_by_id_or_number() {
        let id = DeploymentId::new();
        assert_eq!(id.to_string().parse(), Ok(DeploymentRef::Id(id)));
        assert_eq!("412".parse(), Ok(DeploymentRef::Number(DeploymentNumber(412))));
        assert_eq!("#412".parse(), Ok(DeploymentRef::Number(DeploymentNumber(412))));
        for bad in ["", "#", "+1", "-1", "1.5", "99999999999999999999999", "hello"] {
            assert!(bad.parse::<DeploymentRef>().is_err(), "{bad}");
        }
    }
}
