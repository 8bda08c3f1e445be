//! Where the database is: a file, or a PostgreSQL server. A password is in here and in no text that this makes.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

/// What may stand behind the `?` of a PostgreSQL URL. What is not here is refused: a misspelt password would end in a log.
const PARAMETERS: [&str; 12] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Where HQ's database is. As text: `sqlite:PATH`, or `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full`; shown without
/// the password.
#[derive(Clone)]
pub struct DatabasePlace(pub(super) Place);

#[derive(Clone)]
pub(super) enum Place {
    File(PathBuf),
    Server(Box<PgConnectOptions>),
}

/// Why a text names no database.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ParseDatabasePlaceError {
    /// Neither kind.
    #[error("a database is sqlite:PATH or postgres://USER@HOST/DATABASE")]
    Kind,
    /// The URL is none.
    #[error("this is no URL of a PostgreSQL database: postgres://USER@HOST:PORT/DATABASE")]
    Url,
    /// A parameter that is not known.
    #[error("a PostgreSQL URL has no parameter {name:?} here; there are {}", PARAMETERS.join(", "))]
    Parameter {
        /// Its name, without what it was set to.
        name: String,
    },
    /// No database is named.
    #[error("the PostgreSQL URL names no database: postgres://USER@HOST/DATABASE")]
    NoDatabase,
}

impl DatabasePlace {
    /// Which file it is, if it is one.
    pub(crate) fn as_file(&self) -> Option<PathBuf> {
        match &self.0 {
            Place::File(path) => Some(path.clone()),
            Place::Server(_) => None,
        }
    }

    /// A SQLite file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }
}

impl FromStr for DatabasePlace {
    type Err = ParseDatabasePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::file(path)),
            Some(("postgres" | "postgresql", _)) => {
                let parameters = text.split_once('?').map_or("", |(_, p)| p);
                let names = parameters.split('&').filter(|p| !p.is_empty());
                for name in names.map(|p| p.split_once('=').map_or(p, |(name, _)| name)) {
                    let is_option = name.starts_with("options[");
                    if !is_option && !PARAMETERS.contains(&name) {
                        let name = name.to_owned();
                        return Err(ParseDatabasePlaceError::Parameter { name });
                    }
                }
                let options: PgConnectOptions =
                    text.parse().map_err(|_| ParseDatabasePlaceError::Url)?;
                match options.get_database() {
                    Some(_) => Ok(Self(Place::Server(Box::new(options)))),
                    None => Err(ParseDatabasePlaceError::NoDatabase),
                }
            }
            _ => Err(ParseDatabasePlaceError::Kind),
        }
    }
}

impl fmt::Display for DatabasePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Server(options) => {
                let database = options.get_database().unwrap_or_default();
                let host = match options.get_socket() {
                    Some(folder) => folder.display().to_string(),
                    None => options.get_host().to_owned(),
                };
                let (user, port) = (options.get_username(), options.get_port());
                write!(f, "postgres://{user}@{host}:{port}/{database}")
            }
        }
    }
}

impl fmt::Debug for DatabasePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabasePlace({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, ParseDatabasePlaceError> {
        let place: DatabasePlace = text.parse()?;
        assert!(!format!("{place:?}").contains("hush"));
        Ok(place.to_string())
    }

    #[test]
    fn a_place_is_shown_without_its_password() {
        let fine = [
            ("sqlite:/a/b.sqlite", "/a/b.sqlite"),
            (
                "postgres://hq:hush@db.example:5433/hq?sslmode=verify-full",
                "postgres://hq@db.example:5433/hq",
            ),
            (
                "postgresql://hq@db.example/hq?password=hush",
                "postgres://hq@db.example:5432/hq",
            ),
            (
                "postgres://hq@localhost/hq?host=/run/postgresql",
                "postgres://hq@/run/postgresql:5432/hq",
            ),
        ];
        for (text, expect) in fine {
            assert_eq!(shown(text).as_deref(), Ok(expect));
        }
    }

    #[test]
    fn what_names_no_database_is_refused() {
        use ParseDatabasePlaceError as E;
        let name = |name: &str| E::Parameter { name: name.into() };
        let wrong = [
            ("", E::Kind),
            ("sqlite:", E::Kind),
            ("mysql://a/b", E::Kind),
            ("/hq.sqlite", E::Kind),
            ("postgres://hq:hush@db.example:port/hq", E::Url),
            ("postgres://hq@db.example/hq?pasword=hush", name("pasword")),
            ("postgres://hq@db.example/hq?hush", name("hush")),
        ];
        for (text, expect) in wrong {
            assert_eq!(shown(text), Err(expect), "{text}");
        }
        assert_eq!(shown("postgres://hq@db.example"), Err(E::NoDatabase));
    }
}
