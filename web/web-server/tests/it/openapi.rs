//! HQ's description of its API.

use std::collections::BTreeSet;

use serde_json::Value;
use web_server::{Access, route_table};

use crate::world::*;

/// Every reference in a document.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference);
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => (),
    }
}

#[tokio::test]
async fn the_api_describes_itself_as_a_whole() {
    let world = World::new().await;
    let document: Value = world.admin.get("/api/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    let mut described = 0;
    for (method, path, access) in route_table() {
        let operation = &document["paths"][path][method.to_lowercase()];
        let is_peoples = matches!(access, Access::Person(..) | Access::Public);
        let expect = is_peoples && path.starts_with("/api/");
        assert_eq!(operation.is_object(), expect, "{method} {path}");
        if !expect {
            continue;
        }
        described += 1;
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name), "{name} is the name of two");
        assert!(!operation["summary"].as_str().unwrap().is_empty());
        let is_open = operation["security"].as_array().unwrap().is_empty();
        assert_eq!(is_open, access == Access::Public, "{method} {path}");
        let variables = path.matches('{').count();
        let empty = vec![];
        let parameters = operation["parameters"].as_array().unwrap_or(&empty);
        let in_path = parameters.iter().filter(|p| p["in"] == "path").count();
        assert_eq!(in_path, variables, "{method} {path}");
    }
    assert!(described > 60, "{described}");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for reference in found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference} is nowhere");
    }
    // every list has its own rows, and every type one name
    let row = |path: &str, field: &str| {
        let answer = &document["paths"][path]["get"]["responses"]["200"];
        let page = &answer["content"]["application/json"]["schema"]["$ref"];
        let named = |reference: &Value| {
            let place = reference.as_str().unwrap().strip_prefix('#').unwrap();
            document.pointer(place).unwrap()
        };
        let row = &named(page)["properties"]["rows"]["items"]["$ref"];
        named(row)["properties"][field].is_object()
    };
    assert!(row("/api/v1/sites", "wan_bytes") && row("/api/v1/users", "role"));
    assert!(document["components"]["schemas"].get("Vec").is_none());
    // bytes are text here, and texts have their form
    let hex = &document["components"]["schemas"]["Hex32"];
    assert_eq!(hex["pattern"], "^[0-9a-f]{64}$");
    let site = &document["components"]["schemas"]["SiteInfo"]["properties"]["id"];
    assert_eq!(site["$ref"], "#/components/schemas/Hex16");
    let filter = &document["paths"]["/api/v1/audit"]["get"]["parameters"][0];
    assert_eq!(
        (&filter["name"], &filter["in"]),
        (&"before".into(), &"query".into())
    );
}
