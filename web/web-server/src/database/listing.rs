//! Lists that people page through, filter, sort and search, all in the database.
//!
//! A page begins behind the last row of the one before (keyset paging), so the thousandth costs what the first does, and rows that come
//! or go meanwhile move nobody else's place. See `docs/design/0024-pages-of-lists.md`.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use web_api::{PAGE_TOTAL_MAX, Page};

use super::{
    Connection, Result, big,
    reach::Reach,
    search::{Search, Words},
    sql::{Query, Row, Value, query},
};

/// Rows that a search found and that are looked at one by one.
const FOUND_MAX: i64 = 1000;
/// Characters of a cursor.
const CURSOR_CHARS_MAX: usize = 1024;

/// A column by which a list is sorted; it is never NULL.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Key {
    Number(&'static str),
    Text(&'static str),
}

impl Key {
    fn column(self) -> &'static str {
        match self {
            Self::Number(column) | Self::Text(column) => column,
        }
    }

    fn of(self, row: &Row, alias: &'static str) -> Result<Place> {
        Ok(match self {
            Self::Number(_) => Place::Number(row.try_get(alias)?),
            Self::Text(_) => Place::Text(row.try_get(alias)?),
        })
    }

    fn takes(self, place: &Place) -> bool {
        matches!(
            (self, place),
            (Self::Number(_), Place::Number(_)) | (Self::Text(_), Place::Text(_))
        )
    }
}

/// Names of the columns that a list is sorted by.
const KEY_NAMES: [&str; 4] = ["key_0", "key_1", "key_2", "key_3"];

/// A value of one of them in the last row of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Place {
    Number(i64),
    Text(String),
}

impl From<Place> for Value {
    fn from(place: Place) -> Self {
        match place {
            Place::Number(number) => number.into(),
            Place::Text(text) => text.into(),
        }
    }
}

/// By what a list is sorted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// What people call it.
    pub(crate) word: &'static str,
    /// At most four columns; together they are unique.
    pub(crate) keys: &'static [Key],
    /// The largest first.
    pub(crate) descending: bool,
}

/// Which page of a list.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    order: Order,
    rows: u32,
    after: Option<Vec<Place>>,
    is_counted: bool,
}

/// The text that `?after=` takes is none that this list gave in this order.
#[derive(Debug)]
pub(crate) struct NoPlace;

impl Turn {
    /// So many rows from the beginning, or behind the place that a page before gave.
    pub(crate) fn new(
        order: Order,
        rows: u32,
        after: Option<&str>,
    ) -> std::result::Result<Self, NoPlace> {
        let after = after.map(|text| place(&order, text).ok_or(NoPlace));
        Ok(Self {
            order,
            rows,
            is_counted: after.is_none(),
            after: after.transpose()?,
        })
    }

    /// The first so many rows, which nobody counts.
    pub(crate) fn first(order: Order, rows: u32) -> Self {
        Self {
            order,
            rows,
            after: None,
            is_counted: false,
        }
    }

    /// What the list is sorted by.
    pub(crate) fn word(&self) -> &'static str {
        self.order.word
    }
}

/// A cursor's word and direction have to be those of the list.
fn place(order: &Order, text: &str) -> Option<Vec<Place>> {
    if text.len() > CURSOR_CHARS_MAX {
        return None;
    }
    let json = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let (word, descending, places): (String, bool, Vec<Place>) =
        serde_json::from_slice(&json).ok()?;
    let is_its = word == order.word
        && descending == order.descending
        && places.len() == order.keys.len()
        && order.keys.iter().zip(&places).all(|(k, p)| k.takes(p));
    is_its.then_some(places)
}

/// Where a row is in a list.
fn place_of(order: &Order, row: &Row) -> Result<Vec<Place>> {
    let keys = order.keys.iter().zip(KEY_NAMES);
    keys.map(|(key, name)| key.of(row, name)).collect()
}

fn cursor(order: &Order, places: &[Place]) -> Result<String> {
    let json = serde_json::to_vec(&(order.word, order.descending, places));
    Ok(BASE64URL_NOPAD.encode(&json.map_err(|e| sqlx::Error::Encode(e.into()))?))
}

/// A list: what is in it, of the rows that fit.
///
/// Tables of which a row needs a name alone are joined with LEFT JOIN: then both kinds of database begin with the table that is sorted, and
/// leave the other one out where rows are counted.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    columns: &'static str,
    tables: &'static str,
    /// The same for counting: without what rows are only sorted by.
    counted: &'static str,
    /// Of those few that a search found.
    found: Option<Found>,
    fitting: Query,
    /// The same for the sites of words.
    sites: Query,
    is_counted: bool,
}

/// Rows that are known already.
#[derive(Debug, Clone)]
struct Found {
    words: Words,
    keys: Vec<Vec<String>>,
}

impl Listing {
    /// Columns, and the tables that they are from.
    pub(crate) fn new(columns: &'static str, tables: &'static str) -> Self {
        Self {
            columns,
            tables,
            counted: tables,
            found: None,
            fitting: query(" WHERE 1 = 1"),
            sites: query(" w WHERE 1 = 1"),
            is_counted: true,
        }
    }

    /// The same rows, joined with what they are sorted by.
    pub(crate) fn sorted_with(mut self, tables: &'static str) -> Self {
        self.tables = tables;
        self
    }

    /// Only rows of sites within a reach.
    pub(crate) fn within(mut self, site: &'static str, reach: Reach) -> Self {
        if !reach.is_all() {
            let within = |query: Query, site| {
                let query = query.say(" AND ").say(site);
                let query = query.say(" IN (SELECT site FROM reach WHERE user_id = ");
                query.value(reach).say(")")
            };
            self.fitting = within(self.fitting, site);
            self.sites = within(self.sites, "w.site");
        }
        self
    }

    /// Only rows of the site of a name, if there is one.
    pub(crate) fn of_site(mut self, site: &'static str, name: Option<&String>) -> Self {
        if let Some(name) = name {
            let of = |query: Query, site| {
                let query = query.say(" AND ").say(site);
                let query = query.say(" = (SELECT o.id FROM sites o WHERE o.name = ");
                query.value(name).say(")")
            };
            self.fitting = of(self.fitting, site);
            self.sites = of(self.sites, "w.site");
        }
        self
    }

    /// Only rows for which a condition holds that ends in a value, if there is one.
    pub(crate) fn when(mut self, condition: &'static str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.fitting = self.fitting.say(" AND ").say(condition).value(value);
        }
        self
    }

    /// The same for one that is closed after its value.
    pub(crate) fn when_in(self, condition: &'static str, value: Option<impl Into<Value>>) -> Self {
        let is_there = value.is_some();
        let mut list = self.when(condition, value);
        if is_there {
            list.fitting = list.fitting.say(")");
        }
        list
    }

    /// Only rows for which a condition holds.
    pub(crate) fn only(mut self, condition: &'static str) -> Self {
        self.fitting = self.fitting.say(" AND ").say(condition);
        self
    }

    /// Only rows in whose text each word of a search is: for a list that can be looked through.
    pub(crate) fn search(mut self, text: &'static str, search: Option<&Search>) -> Self {
        if let Some(search) = search {
            self.fitting = search.among(self.fitting, text);
        }
        self
    }

    /// The same for a long list whose words are in a narrow table. That is looked through once. Where it has few such rows, they are all
    /// that is looked at further; where it has many, the list is walked in its order, where one comes soon, and not counted.
    pub(crate) async fn search_words(
        mut self,
        db: &mut Connection,
        words: Words,
        search: Option<&Search>,
    ) -> Result<Self> {
        let Some(search) = search.filter(|search| !search.is_empty()) else {
            return Ok(self);
        };
        let mut found = query("SELECT ");
        for (at, key) in words.keys.iter().enumerate() {
            found = found.say(if at == 0 { "w." } else { ", w." }).say(key);
        }
        found = found.say(" FROM ").say(words.table);
        found = search.among_words(self.sites.clone().after(found));
        let found = found.say(" LIMIT ").value(FOUND_MAX + 1);
        let rows = found.fetch_all(db).await?;
        if i64::try_from(rows.len()).is_ok_and(|found| found <= FOUND_MAX) {
            let keys_of = |row| {
                words
                    .keys
                    .iter()
                    .map(|key| Row::try_get(row, key))
                    .collect()
            };
            let keys = rows.iter().map(keys_of).collect::<Result<_>>()?;
            self.found = Some(Found { words, keys });
            return Ok(self);
        }
        let mut fitting = self.fitting.say(" AND EXISTS (SELECT 1 FROM ");
        fitting = fitting.say(words.table).say(" w WHERE 1 = 1");
        fitting = words.belong(fitting, "w");
        self.fitting = search.among_words(fitting).say(")");
        self.is_counted = false;
        Ok(self)
    }

    /// A page of it. On the first page its rows are counted.
    pub(crate) async fn page<T>(
        self,
        db: &mut Connection,
        turn: &Turn,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let is_counted = turn.is_counted && self.is_counted;
        let (rows, next) = self.clone().some(db, turn).await?;
        let total = match &next {
            _ if !is_counted => None,
            None => Some(rows.len() as u64),
            Some(_) => Some(self.count(db).await?),
        };
        Ok(Page {
            rows: rows.iter().map(read).collect::<Result<_>>()?,
            total,
            next: next
                .map(|places| cursor(&turn.order, &places))
                .transpose()?,
        })
    }

    /// A page of a search in a list that is too long to be looked through at once: it looks at so many rows, and the next page at those
    /// behind them. Nothing is counted.
    pub(crate) async fn sift<T>(
        self,
        db: &mut Connection,
        turn: &Turn,
        (text, search): (&'static str, &Search),
        looked_at: u32,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let order = &turn.order;
        let last = self.clone().rows(turn, 1, looked_at.saturating_sub(1));
        let last = last.fetch_optional(db).await?;
        let last = last.map(|row| place_of(order, &row)).transpose()?;
        let mut list = self.search(text, Some(search));
        if let Some(last) = &last {
            let sign = if order.descending { ") >= (" } else { ") <= (" };
            list.fitting = compared(list.fitting, order, sign, last);
        }
        let (rows, next) = list.some(db, turn).await?;
        let next = next.or(last);
        Ok(Page {
            rows: rows.iter().map(read).collect::<Result<_>>()?,
            total: None,
            next: next.map(|places| cursor(order, &places)).transpose()?,
        })
    }

    /// Its first rows, as many as a page has.
    pub(crate) async fn first(self, db: &mut Connection, turn: &Turn) -> Result<Vec<Row>> {
        self.rows(turn, turn.rows, 0).fetch_all(db).await
    }

    /// The only row.
    pub(crate) async fn fetch_optional(self, db: &mut Connection) -> Result<Option<Row>> {
        let head = query("SELECT ").say(self.columns);
        self.of_tables(head).fetch_optional(db).await
    }

    /// The rows of a page, and where the next one begins.
    async fn some(
        self,
        db: &mut Connection,
        turn: &Turn,
    ) -> Result<(Vec<Row>, Option<Vec<Place>>)> {
        // one more than the page has: it says whether there is another page
        let mut rows = self.rows(turn, turn.rows + 1, 0).fetch_all(db).await?;
        let asked = usize::try_from(turn.rows).unwrap_or(usize::MAX);
        let has_more = rows.len() > asked;
        rows.truncate(asked);
        let last = rows.last().filter(|_| has_more);
        let next = last.map(|row| place_of(&turn.order, row)).transpose()?;
        Ok((rows, next))
    }

    fn rows(self, turn: &Turn, limit: u32, offset: u32) -> Query {
        let order = &turn.order;
        let mut head = query("SELECT ").say(self.columns);
        for (key, name) in order.keys.iter().zip(KEY_NAMES) {
            head = head.say(", ").say(key.column()).say(" AS ").say(name);
        }
        let (direction, beyond) = match order.descending {
            true => (" DESC", ") < ("),
            false => ("", ") > ("),
        };
        let mut query = self.of_tables(head);
        if let Some(after) = &turn.after {
            query = compared(query, order, beyond, after);
        }
        query = columns(query.say(" ORDER BY "), order, direction);
        query = query.say(" LIMIT ").value(i64::from(limit));
        if offset > 0 {
            query = query.say(" OFFSET ").value(i64::from(offset));
        }
        query
    }

    /// A statement of the rows that fit, after its beginning.
    fn of_tables(self, head: Query) -> Query {
        let head = head.say(" FROM ");
        let Some(Found { words, keys }) = self.found else {
            return self.fitting.after(head.say(self.tables));
        };
        let mut fitting = self.fitting;
        if keys.is_empty() {
            return fitting.say(" AND 1 = 0").after(head.say(self.tables));
        }
        fitting = words.belong(fitting, "f");
        let head = head.say("found f CROSS JOIN ").say(self.tables);
        let mut with = fitting.beside("WITH found (");
        for (at, key) in words.keys.iter().enumerate() {
            with = with.say(if at == 0 { "" } else { ", " }).say(key);
        }
        with = with.say(") AS (VALUES ");
        for (at, row) in keys.into_iter().enumerate() {
            with = with.say(if at == 0 { "(" } else { ", (" });
            with = with.list(row).say(")");
        }
        fitting.after(with.say(") ").and(&head))
    }

    async fn count(mut self, db: &mut Connection) -> Result<u64> {
        self.tables = self.counted;
        let rows = self.of_tables(query("SELECT 1 AS one")).say(" LIMIT ");
        let rows = rows.value(big(PAGE_TOTAL_MAX) + 1).say(") AS counted");
        let counted = rows.after(query("SELECT COUNT(*) AS total FROM ("));
        super::number(&counted.fetch_one(db).await?, "total")
    }
}

/// The columns that a list is sorted by, with something behind each.
fn columns(mut query: Query, order: &Order, end: &'static str) -> Query {
    for (at, key) in order.keys.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        query = query.say(comma).say(key.column()).say(end);
    }
    query
}

/// Only rows on one side of a place. The sign is between two parentheses.
fn compared(query: Query, order: &Order, sign: &'static str, place: &[Place]) -> Query {
    let query = columns(query.say(" AND ("), order, "").say(sign);
    query.list(place.iter().cloned()).say(")")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_SEEN: Order = Order {
        word: "seen",
        keys: &[Key::Number("m.seen"), Key::Text("m.id")],
        descending: true,
    };

    fn search(text: &str) -> std::result::Result<Search, String> {
        text.to_owned().try_into()
    }

    #[test]
    fn a_page_is_asked_for_behind_a_place() {
        let list = Listing::new("m.id, m.facts", "machines m")
            .within("m.site", Reach::of(7))
            .when("m.state = ", Some("failed"))
            .when("m.site = ", None::<&str>)
            .search("m.words", search("Dell  52:54").ok().as_ref());
        let json = br#"["seen",true,[5,"ab"]]"#;
        let turn = Turn::new(BY_SEEN, 10, Some(&BASE64URL_NOPAD.encode(json)));
        let query = list.rows(&turn.ok().unwrap(), 11, 0);
        let expect = "SELECT m.id, m.facts, m.seen AS key_0, m.id AS key_1 FROM machines m WHERE 1 = 1 \
            AND m.site IN (SELECT site FROM reach WHERE user_id = $1) AND m.state = $2 \
            AND (m.words LIKE $3 ESCAPE '!') AND (m.words LIKE $4 ESCAPE '!' OR m.words LIKE $5 ESCAPE '!') \
            AND (m.seen, m.id) < ($6, $7) ORDER BY m.seen DESC, m.id DESC LIMIT $8";
        assert_eq!(query.text(), expect);
    }

    #[test]
    fn what_a_search_found_is_looked_up() {
        let words = Words {
            table: "machine_words",
            keys: &["site", "id"],
            row: "m",
        };
        let mut list = Listing::new("m.id", "machines m").when("m.state = ", Some("failed"));
        let keys = vec![vec!["a".into(), "b".into()], vec!["c".into(), "d".into()]];
        list.found = Some(Found { words, keys });
        let query = list.clone().rows(&Turn::first(BY_SEEN, 10), 11, 0);
        let expect = "WITH found (site, id) AS (VALUES ($2, $3), ($4, $5)) \
            SELECT m.id, m.seen AS key_0, m.id AS key_1 FROM found f CROSS JOIN machines m WHERE 1 = 1 \
            AND m.state = $1 AND f.site = m.site AND f.id = m.id ORDER BY m.seen DESC, m.id DESC LIMIT $6";
        assert_eq!(query.text(), expect);
        list.found = Some(Found {
            words,
            keys: vec![],
        });
        let query = list.rows(&Turn::first(BY_SEEN, 10), 11, 0);
        assert!(
            query
                .text()
                .contains("FROM machines m WHERE 1 = 1 AND m.state = $1 AND 1 = 0 ")
        );
    }

    #[test]
    fn a_place_is_of_one_list_in_one_order() {
        let turn =
            |json: &str| Turn::new(BY_SEEN, 10, Some(&BASE64URL_NOPAD.encode(json.as_bytes())));
        assert!(turn(r#"["seen",true,[5,"ab"]]"#).is_ok());
        for wrong in [
            r#"["seen",false,[5,"ab"]]"#,
            r#"["name",true,[5,"ab"]]"#,
            r#"["seen",true,["5","ab"]]"#,
            r#"["seen",true,[5]]"#,
            r#"["seen",true,[5,null]]"#,
            r#"["seen",true]"#,
            "",
        ] {
            assert!(turn(wrong).is_err(), "{wrong}");
        }
        assert!(Turn::new(BY_SEEN, 10, Some("no base64!")).is_err());
        let long = "A".repeat(CURSOR_CHARS_MAX + 1);
        assert!(Turn::new(BY_SEEN, 10, Some(&long)).is_err());
    }
}
