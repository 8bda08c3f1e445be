//! Commands about nodes.

use anyhow::Result;
use peer_cache_origin::HqClient;
use reqwest::Method;
use web_api::{Hex, NodeInfo, NodeRename, SiteInfo};

use super::quoted;
use crate::{
    HqChoice, Output,
    client::{self, Rows, Search},
};

/// Digits of a key that are enough to tell it from others in a list.
const KEY_DIGITS_SHOWN: usize = 16;

/// `lamplighter nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodesArguments {
    /// Revoke the node with this key.
    #[arg(long)]
    revoke: Option<Hex<32>>,
    /// The site of a node that HQ has not met: a neighbour certified it while HQ was away, and it shows its key on its screen.
    #[arg(long, requires = "revoke")]
    site: Option<String>,
    /// Give a node another name. Of its key 8 digits or more are enough where they fit one node.
    #[arg(long, num_args = 2, value_names = ["KEY", "NAME"], conflicts_with = "revoke")]
    rename: Option<Vec<String>>,
    /// Show also nodes whose machines were built anew. JSON always has them.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    search: Search,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    hq: HqChoice,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn nodes(arguments: NodesArguments) -> Result<()> {
    let client = client::for_people(&arguments.hq)?;
    if let Some(key) = arguments.revoke {
        revoke(&client, key, arguments.site.as_deref()).await?;
    }
    if let Some([key, name]) = arguments.rename.as_deref() {
        let path = format!("/nodes/{}/rename", quoted(key));
        let name = name.clone();
        let _: NodeInfo = client.post(&path, &NodeRename { name }).await?;
    }
    let fitting = [("search", arguments.search.search.as_deref())];
    let nodes: Vec<NodeInfo> = client::rows(&client, "/nodes", &arguments.rows, &fitting).await?;
    let all = arguments.all;
    arguments.output.print(&nodes, |nodes| text(nodes, all))
}

async fn revoke(client: &HqClient, key: Hex<32>, site: Option<&str>) -> Result<()> {
    let of_site = match site {
        Some(name) => {
            let path = format!("/sites/{}", quoted(name));
            let site: SiteInfo = client.get(&path).await?;
            format!("?site={}", site.id)
        }
        None => String::new(),
    };
    let path = format!("/nodes/{key}/revoke{of_site}");
    let request = client.request(Method::POST, &path);
    client.send(request.json(&serde_json::json!({}))).await?;
    Ok(())
}

/// One line for each node, and how many are not shown.
fn text(nodes: &[NodeInfo], all: bool) -> String {
    let shown = nodes.iter().filter(|n| all || !n.is_gone());
    let mut text: String = shown.map(line).collect();
    let gone = nodes.iter().filter(|n| n.is_gone()).count();
    if gone > 0 && !all {
        text += &format!("{gone} replaced, not shown (--all)\n");
    }
    text
}

fn line(node: &NodeInfo) -> String {
    let by = node.replaced_by.map_or_else(String::new, |key| {
        format!(", by {}", &key.to_string()[..KEY_DIGITS_SHOWN])
    });
    let (key, site, name, state) = (node.key, &node.site, &node.name, node.state());
    format!("{key} {site:20} {name:24} {state}{by}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8, replaced_by: Option<u8>, heard_again: u64, revoked: bool) -> NodeInfo {
        NodeInfo {
            key: Hex([last; 32]),
            site: "north".into(),
            name: format!("till-{last}"),
            machine: Hex([0; 16]),
            origin: "certified".into(),
            revoked,
            seen_unix_seconds: 0,
            address: None,
            replaced_by: replaced_by.map(|by| Hex([by; 32])),
            replaced_unix_seconds: 0,
            heard_again_unix_seconds: heard_again,
        }
    }

    #[test]
    fn a_replaced_node_is_shown_when_it_is_heard_or_asked_for() {
        let by = "by 0101010101010101";
        let nodes = [
            node(1, None, 0, false),
            node(2, Some(1), 5, false),
            node(3, Some(1), 0, false),
            node(4, Some(1), 0, true),
            node(5, None, 0, true),
        ];
        let check = |count: usize, all, expect: &[&str]| {
            let text = text(&nodes[..count], all);
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.len(), expect.len(), "{text}");
            for (line, end) in lines.iter().zip(expect) {
                assert!(line.ends_with(end), "{line} does not end with {end}");
            }
        };
        let heard = format!(" replaced, but heard, {by}");
        let (replaced, revoked) = (format!(" replaced, {by}"), format!(" revoked, {by}"));
        let hidden = "2 replaced, not shown (--all)";
        check(1, false, &[" certified"]);
        check(5, false, &[" certified", &heard, " revoked", hidden]);
        check(
            5,
            true,
            &[" certified", &heard, &replaced, &revoked, " revoked"],
        );
    }
}
