//! Which page of a list somebody asks for: how many rows, behind which, sorted by what, and which rows at all.

use axum::{
    extract::{FromRequestParts, Query},
    http::{Uri, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, PartialSchema,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};
use web_api::{PAGE_ROWS, PAGE_ROWS_MAX};

use crate::{
    database::listing::{Order, Turn},
    error::Refusal,
};

/// Characters that are said of what is wrong with a request.
const WRONG_CHARS_MAX: usize = 200;

/// By what a list can be sorted.
pub(crate) trait Sort: Copy + Default + DeserializeOwned + PartialSchema {
    /// The columns, in the direction that people want first.
    fn order(self) -> Order;
}

/// What every list takes, beside what it is sorted by.
#[derive(Debug, Default, Deserialize, IntoParams)]
struct Asked {
    /// Rows of the page.
    #[param(minimum = 1, maximum = 500, nullable = false)]
    #[serde(default)]
    limit: Option<u32>,
    /// What the page before gave as `next`.
    #[param(nullable = false)]
    #[serde(default)]
    after: Option<String>,
    /// The other direction than the usual one of what it is sorted by.
    #[serde(default)]
    reverse: bool,
}

#[derive(Debug, Deserialize)]
struct AskedSort<S: Default> {
    #[serde(default)]
    sort: S,
}

const PAGE_WORDS: [&str; 4] = ["limit", "after", "reverse", "sort"];

/// A page, and the rows that are wanted.
pub(crate) struct Listed<S, F> {
    pub(crate) turn: Turn,
    pub(crate) filter: F,
    sort: std::marker::PhantomData<S>,
}

impl<S: Sort, F: DeserializeOwned, State: Send + Sync> FromRequestParts<State> for Listed<S, F> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        let asked = parts.uri.query().unwrap_or_default();
        Self::parse(asked)
    }
}

impl<S: Sort, F: DeserializeOwned> Listed<S, F> {
    fn parse(asked: &str) -> Result<Self, Refusal> {
        let is_page = |pair: &&str| {
            let word = pair.split('=').next().unwrap_or_default();
            PAGE_WORDS.contains(&word)
        };
        let (page, filter): (Vec<&str>, Vec<&str>) = asked
            .split('&')
            .filter(|pair| !pair.is_empty())
            .partition(is_page);
        let page = page.join("&");
        let AskedSort::<S> { sort } = read(&page)?;
        let page: Asked = read(&page)?;
        let filter: F = read(&filter.join("&"))?;
        let rows = page.limit.unwrap_or(PAGE_ROWS);
        if !(1..=PAGE_ROWS_MAX).contains(&rows) {
            return Err(Refusal::bad(format!(
                "limit: a page has 1 to {PAGE_ROWS_MAX} rows, not {rows}"
            )));
        }
        let mut order = sort.order();
        order.descending ^= page.reverse;
        let turn = Turn::new(order, rows, page.after.as_deref()).map_err(|_| {
            Refusal::bad("after: this is no place in this list sorted so; begin without it")
        })?;
        Ok(Self {
            turn,
            filter,
            sort: std::marker::PhantomData,
        })
    }
}

fn read<T: DeserializeOwned>(pairs: &str) -> Result<T, Refusal> {
    let wrong = |why: &dyn std::error::Error| {
        // below "failed to deserialize query string"
        let why = why
            .source()
            .map_or_else(|| why.to_string(), ToString::to_string);
        let why: String = why.chars().take(WRONG_CHARS_MAX).collect();
        Refusal::bad(format!(
            "this list does not take what it is asked for: {why}"
        ))
    };
    let address = format!("/?{pairs}").parse::<Uri>().map_err(|e| wrong(&e))?;
    let asked = Query::try_from_uri(&address);
    asked.map(|Query(asked)| asked).map_err(|e| wrong(&e))
}

/// For HQ's description of its API.
pub(crate) fn parameters<S: Sort, F: IntoParams>() -> Vec<Parameter> {
    let query = || Some(ParameterIn::Query);
    let mut all = Asked::into_params(query);
    let sort = ParameterBuilder::new()
        .name("sort")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("By what it is sorted."))
        .schema(Some(S::schema()));
    all.push(sort.build());
    all.extend(F::into_params(query));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::listing::Key;

    #[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
    #[serde(rename_all = "lowercase")]
    enum By {
        #[default]
        Name,
    }

    impl Sort for By {
        fn order(self) -> Order {
            Order {
                word: "name",
                keys: &[Key::Text("name")],
                descending: false,
            }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        site: Option<String>,
    }

    #[test]
    fn a_page_and_its_rows_are_asked_for() {
        let asked = |text: &str| Listed::<By, Wanted>::parse(text);
        let all = asked("").ok().unwrap();
        assert_eq!(all.filter.site, None);
        let some = asked("sort=name&site=a%26b+c&limit=5&reverse=true");
        assert_eq!(some.ok().unwrap().filter.site.unwrap(), "a&b c");
        for wrong in [
            "limit=0",
            "limit=501",
            "limit=x",
            "sort=size",
            "after=x",
            "site=a&site=b",
            "page=2",
            "reverse=maybe",
            "limit=1&limit=2",
        ] {
            let refused = asked(wrong).err().unwrap();
            assert!(!refused.to_string().is_empty(), "{wrong}");
        }
    }
}
