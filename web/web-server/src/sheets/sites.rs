//! Sites as lines of a file: pure.

use std::collections::BTreeMap;

use web_api::{SiteUnknown, WanBudget, WanWindow, parse_utc_offset};

use super::cells::{Faults, Line, line, read, shown};
use crate::input::{checked_name, checked_tags};

/// Columns of a file of sites.
pub(super) const COLUMNS: &[&str] = &[
    "name",
    "unknown",
    "provisional",
    "tags",
    "utc_offset",
    "wan",
];

/// A site as a file has it. What the file has no column for stays as it is; an empty cell is what a new site has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SiteLine {
    pub(super) name: String,
    pub(super) unknown: Option<SiteUnknown>,
    pub(super) provisional: Option<bool>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) utc_offset_minutes: Option<i16>,
    pub(super) windows: Option<Vec<WanWindow>>,
}

/// What HQ has of a site, in the file's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) unknown: SiteUnknown,
    pub(super) provisional: bool,
    pub(super) tags: Vec<String>,
    pub(super) budget: WanBudget,
}

impl Site {
    /// One that was just made.
    #[cfg(test)]
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            unknown: SiteUnknown::default(),
            provisional: true,
            tags: Vec::new(),
            budget: WanBudget::default(),
        }
    }

    /// As a line of a file wants it.
    pub(super) fn with(&self, line: &SiteLine) -> Self {
        let minutes = line.utc_offset_minutes;
        let windows = line.windows.as_ref().unwrap_or(&self.budget.windows);
        Self {
            name: self.name.clone(),
            unknown: line.unknown.unwrap_or(self.unknown),
            provisional: line.provisional.unwrap_or(self.provisional),
            tags: line.tags.as_ref().unwrap_or(&self.tags).clone(),
            budget: WanBudget {
                windows: windows.clone(),
                utc_offset_minutes: minutes.unwrap_or(self.budget.utc_offset_minutes),
            },
        }
    }

    /// As a line of a file.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let minutes = self.budget.utc_offset_minutes;
        // a plus would make a formula of it
        let sign = if minutes < 0 { "-" } else { "" };
        let (hours, rest) = (minutes.abs() / 60, minutes.abs() % 60);
        let windows: Vec<_> = self
            .budget
            .windows
            .iter()
            .map(ToString::to_string)
            .collect();
        line([
            self.name.clone(),
            word(self.unknown).into(),
            if self.provisional { "yes" } else { "no" }.into(),
            self.tags.join(" "),
            format!("{sign}{hours:02}:{rest:02}"),
            windows.join(" "),
        ])
    }
}

const UNKNOWN: [SiteUnknown; 4] = [
    SiteUnknown::Wait,
    SiteUnknown::Admit,
    SiteUnknown::Pin,
    SiteUnknown::Refuse,
];

fn word(unknown: SiteUnknown) -> &'static str {
    match unknown {
        SiteUnknown::Wait => "wait",
        SiteUnknown::Admit => "admit",
        SiteUnknown::Pin => "pin",
        SiteUnknown::Refuse => "refuse",
    }
}

/// Sites of a file, each once.
pub(super) fn parse(bytes: &[u8], tags_max: usize, faults: &mut Faults) -> Vec<SiteLine> {
    let lines = read(bytes, COLUMNS, faults);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut sites = Vec::new();
    for line in &lines {
        let Some(site) = site(line, tags_max, faults) else {
            continue;
        };
        match seen.insert(site.name.clone(), line.number) {
            Some(before) => {
                let fault = format!("line {before} has this site too");
                faults.add(line.number, Some("name"), fault);
            }
            None => sites.push(site),
        }
    }
    if lines.is_empty() && faults.0.is_empty() {
        faults.add(1, None, "the file has no line below its first");
    }
    sites
}

fn site(line: &Line, tags_max: usize, faults: &mut Faults) -> Option<SiteLine> {
    let number = line.number;
    let before = faults.0.len();
    let mut fault = |column: &'static str, fault: String| faults.add(number, Some(column), fault);
    let mut site = SiteLine::default();
    match checked_name(line.cell("name").unwrap_or_default(), "a site's name") {
        Ok(name) => site.name = name.to_owned(),
        Err(refusal) => fault("name", refusal.to_string()),
    }
    if let Some(cell) = line.cell("unknown") {
        let found = UNKNOWN
            .into_iter()
            .find(|u| word(*u).eq_ignore_ascii_case(cell));
        match (found, cell) {
            (Some(unknown), _) => site.unknown = Some(unknown),
            (None, "") => site.unknown = Some(SiteUnknown::default()),
            (None, _) => fault(
                "unknown",
                format!("{} is none of wait, admit, pin, refuse", shown(cell)),
            ),
        }
    }
    match line.cell("provisional").map(str::to_lowercase).as_deref() {
        None => {}
        Some("" | "yes" | "true") => site.provisional = Some(true),
        Some("no" | "false") => site.provisional = Some(false),
        Some(cell) => fault(
            "provisional",
            format!("{} is neither yes nor no", shown(cell)),
        ),
    }
    if let Some(cell) = line.cell("tags") {
        let tags: Vec<String> = cell.split_whitespace().map(str::to_owned).collect();
        match checked_tags(&tags) {
            Ok(tags) if tags.len() > tags_max => {
                fault("tags", format!("a site has at most {tags_max} tags"));
            }
            Ok(tags) => site.tags = Some(tags),
            Err(refusal) => fault("tags", refusal.to_string()),
        }
    }
    match line.cell("utc_offset") {
        None => {}
        Some("") => site.utc_offset_minutes = Some(0),
        Some(cell) => match parse_utc_offset(cell) {
            Ok(minutes) => site.utc_offset_minutes = Some(minutes),
            Err(why) => fault("utc_offset", why),
        },
    }
    if let Some(cell) = line.cell("wan") {
        let windows: Result<Vec<WanWindow>, _> = cell.split_whitespace().map(str::parse).collect();
        let checked = windows.and_then(|windows| {
            let budget = WanBudget {
                windows,
                utc_offset_minutes: site.utc_offset_minutes.unwrap_or_default(),
            };
            budget.check().map(|()| budget.windows)
        });
        match checked {
            Ok(windows) => site.windows = Some(windows),
            Err(error) => fault("wan", error.to_string()),
        }
    }
    (faults.0.len() == before).then_some(site)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Vec<SiteLine>, Vec<String>) {
        let mut faults = Faults::default();
        let sites = parse(text.as_bytes(), 2, &mut faults);
        (sites, faults.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_site_comes_back_from_its_line() {
        let site = Site {
            name: "-5 °C, \"cold\" store".into(),
            unknown: SiteUnknown::Refuse,
            provisional: false,
            tags: vec!["coast".into(), "small".into()],
            budget: WanBudget {
                windows: vec![
                    "08:00-20:00=2Mbit".parse().unwrap(),
                    "20:00-08:00=none".parse().unwrap(),
                ],
                utc_offset_minutes: -210,
            },
        };
        let file = [
            line(COLUMNS.iter().map(ToString::to_string)),
            site.to_line(),
        ]
        .concat();
        let (lines, faults) = of(&String::from_utf8(file).unwrap());
        assert_eq!(faults, [""; 0]);
        assert_eq!(Site::new(&site.name).with(&lines[0]), site);
        // what a file has no column for stays
        let (lines, _) = of("name\n'-5 °C\n");
        assert_eq!(site.with(&lines[0]), site);
        assert_eq!(lines[0].name, "-5 °C");
    }

    #[test]
    fn every_fault_is_told_with_its_line_and_column() {
        let (sites, faults) = of("name,unknown,provisional,tags,utc_offset,wan\n\
            north,perhaps,maybe,a/b,+25:00,always\n\
            ,wait,yes,a b c,,\n\
            south,,,,,08:00-10:00=8kbit\n\
            east,,,,,\n\
            east,ADMIT,No,,+01:00,\n");
        let expect = [
            "line 2, unknown: \"perhaps\" is none of wait, admit, pin, refuse",
            "line 2, provisional: \"maybe\" is neither yes nor no",
            "line 2, tags: \"a/b\" is no tag",
            "line 2, utc_offset: ",
            "line 2, wan: ",
            "line 3, name: a site's name has 1 to 64 characters",
            "line 3, tags: a site has at most 2 tags",
            "line 4, wan: ",
            "line 6, name: line 5 has this site too",
        ];
        assert_eq!(faults.len(), expect.len(), "{faults:#?}");
        for (fault, expect) in faults.iter().zip(expect) {
            assert!(fault.starts_with(expect), "{fault}");
        }
        assert_eq!(sites.len(), 1);
        for empty in ["", "name\n", "name,tags\n\n"] {
            assert_eq!(of(empty).1.len(), 1, "{empty:?}");
        }
    }
}
