//! One page that shows everything a compilation decided; self-contained, without scripts from elsewhere.

use super::bytes;
use super::table::shortened;
use crate::runtime::{BufferReport, Crossing, Explain, PerPhase};
use std::fmt::Write;

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1d2733; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe3; padding-bottom: .2rem }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600; color: #5a6675 }
th, td { padding: .15rem .8rem .15rem 0; vertical-align: top; overflow-wrap: break-word } tr:hover td { background: #f3f6fa }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.cards { display: flex; flex-wrap: wrap; gap: .8rem } .card { border: 1px solid #d5dbe3; border-radius: 6px; padding: .5rem .9rem }
.card b { display: block; font-size: 1.15rem } .card span { color: #5a6675; font-size: .85rem }
.bar { background: #dfe8f5; height: .9rem } .forward { fill: #4477aa; color: #4477aa } .backward { fill: #cc6677; color: #cc6677 }
.update { fill: #44aa77; color: #228855 } .state { fill: #b9c2cd } details { margin-top: .6rem } summary { cursor: pointer; color: #2b5797 }
svg { width: 100%; height: auto; background: #f8fafc; border: 1px solid #d5dbe3 } svg text { font: 11px system-ui, sans-serif; fill: #5a6675 }
";

/// Rows shown at once; longer tables open on a click.
const SHOWN: usize = 24;

/// [`Explain`] as an HTML page.
pub fn html(explain: &Explain) -> String {
    let mut page = String::new();
    let title = format!("{} for {}", escape(&explain.name), escape(&explain.device));
    let _ = write!(page, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>");
    let _ = write!(page, "<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{}", cards(explain));
    page += &section("Memory over the step", &lifetimes(explain));
    page += &section("Saved between forward and backward", &crossings(&explain.partition.saved));
    page += &section("Recomputed in the backward", &crossings(&explain.partition.recomputed));
    page += &section("Assumed about sizes of inputs", &guards(explain));
    page += &section("Commands", &commands(explain));
    page += &section("Fusion and other decisions", &decisions(explain));
    page += &section("Compilation", &compilation(explain));
    page + "</body></html>\n"
}

/// A section; nothing when it has nothing to show.
fn section(title: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("<h2>{title}</h2>\n{body}\n") }
}

fn cards(explain: &Explain) -> String {
    let phases = |p: &PerPhase| format!("{} forward, {} backward, {} update", p.forward, p.backward, p.update);
    let total: f64 = explain.compile_ms.values().filter_map(|ms| ms.as_f64()).sum();
    let mut out = String::from("<div class=\"cards\">");
    let mut card = |value: String, what: String| {
        let _ = write!(out, "<div class=\"card\"><b>{value}</b><span>{what}</span></div>");
    };
    card(explain.launches.total().to_string(), format!("launches: {}", phases(&explain.launches)));
    card(explain.kernels.total().to_string(), format!("kernels: {}", phases(&explain.kernels)));
    card(bytes(explain.memory.predicted_peak_bytes), "predicted peak".into());
    if !explain.partition.saved.is_empty() {
        card(bytes(explain.partition.saved_activation_bytes), format!("saved for the backward, in {} values", explain.partition.saved.len()));
    }
    card(format!("{total:.0} ms"), "compilation".into());
    out + "</div>"
}

/// A table whose rows beyond the first are behind a click. Columns whose title ends in `#` hold numbers.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let class = |k: usize| if header[k].ends_with('#') { " class=\"n\"" } else { "" };
    let cells = |tag: &str, row: &mut dyn Iterator<Item = &str>| {
        let cells = row.enumerate().map(|(k, c)| format!("<{tag}{}>{c}</{tag}>", class(k)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let head = cells("th", &mut header.iter().map(|h| h.trim_end_matches('#')));
    let part = |rows: &[Vec<String>]| {
        let body: String = rows.iter().map(|r| cells("td", &mut r.iter().map(String::as_str))).collect();
        format!("<table>{head}{body}</table>")
    };
    let (first, rest) = rows.split_at(rows.len().min(SHOWN));
    let more = if rest.is_empty() { String::new() } else { format!("<details><summary>{} more</summary>{}</details>", rest.len(), part(rest)) };
    part(first) + &more
}

fn crossings(list: &[Crossing]) -> String {
    let rows: Vec<Vec<String>> = list.iter().map(|c| vec![escape(&c.name), bytes(c.bytes), escape(&c.reason)]).collect();
    table(&["value", "size#", "reason"], &rows)
}

fn commands(explain: &Explain) -> String {
    let row = |(i, c): (usize, &crate::runtime::CommandReport)| {
        let phase = format!("{:?}", c.phase).to_lowercase();
        vec![
            i.to_string(),
            c.launch.to_string(),
            format!("<span class=\"{phase}\">{phase}</span>"),
            c.kernel.to_string(),
            escape(&c.variant),
            escape(&c.label),
        ]
    };
    let rows: Vec<Vec<String>> = explain.commands.iter().enumerate().map(row).collect();
    table(&["command#", "launch#", "phase", "kernel#", "variant", "ops"], &rows)
}

fn guards(explain: &Explain) -> String {
    let items: Vec<String> = explain.guards.iter().map(|g| format!("<li>{}</li>", escape(g))).collect();
    if items.is_empty() { String::new() } else { format!("<ul>{}</ul>", items.concat()) }
}

fn decisions(explain: &Explain) -> String {
    let others = explain.decisions.iter().filter(|d| d.stage != "partition");
    let rows: Vec<Vec<String>> = others.map(|d| [&d.stage, &d.subject, &d.verdict, &d.reason].map(|t| escape(t)).to_vec()).collect();
    table(&["stage", "subject", "verdict", "reason"], &rows)
}

fn compilation(explain: &Explain) -> String {
    let stages: Vec<(&String, f64)> = explain.compile_ms.iter().map(|(s, ms)| (s, ms.as_f64().unwrap_or(0.0))).collect();
    let longest = stages.iter().map(|s| s.1).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |ms: f64| format!("<div class=\"bar\" style=\"width: {:.1}%\"></div>", 100.0 * ms / longest);
    let rows: Vec<Vec<String>> = stages.into_iter().map(|(s, ms)| vec![escape(s), format!("{ms:.1} ms"), bar(ms)]).collect();
    table(&["stage", "time#", "share"], &rows)
}

/// The largest buffers as bars from their first to their last command.
fn lifetimes(explain: &Explain) -> String {
    let mut buffers: Vec<&BufferReport> = explain.memory.buffers.iter().filter(|b| b.bytes > 0).collect();
    if buffers.is_empty() || explain.commands.is_empty() {
        return String::new();
    }
    buffers.sort_by_key(|b| std::cmp::Reverse(b.bytes));
    let mut shown = buffers[..buffers.len().min(2 * SHOWN)].to_vec();
    shown.sort_by_key(|b| (b.first, b.last));
    let (left, width, height) = (260.0, 1000.0, 16.0);
    let x = |command: usize| left + (width - left) * command as f64 / explain.commands.len() as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {width} {}\" role=\"img\" aria-label=\"lifetimes of buffers\">", height * (shown.len() + 1) as f64);
    for (k, b) in shown.iter().enumerate() {
        let y = height * k as f64 + 3.0;
        let (from, to) = (x(b.first), x(b.last + 1));
        let class = if b.kind == "temporary" { format!("{:?}", explain.commands[b.first].phase).to_lowercase() } else { "state".into() };
        let name = escape(&shortened(&b.name, 30));
        let what = format!("{}: {} in slot {} ({}), commands {} to {}", escape(&b.name), bytes(b.bytes), b.slot, b.kind, b.first, b.last);
        let _ = write!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}, {}</text>", left - 6.0, y + 10.0, bytes(b.bytes));
        let _ =
            write!(svg, "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"12\"><title>{what}</title></rect>", to - from);
    }
    let y = height * shown.len() as f64 + 12.0;
    let _ = write!(svg, "<text x=\"{left}\" y=\"{y}\">command 0</text>");
    let _ = write!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">command {}</text></svg>", width - 4.0, explain.commands.len() - 1);
    let hidden = buffers.len() - shown.len();
    let rest = if hidden == 0 { String::new() } else { format!(", the {} largest of {}", shown.len(), buffers.len()) };
    let legend = "temporaries by the phase that makes them: <span class=\"forward\">forward</span>, <span class=\"backward\">backward</span>, \
                  <span class=\"update\">update</span>; gray lives across steps or is the border";
    format!("<p>Buffers from their first to their last command{rest}; {legend}.</p>{svg}")
}

fn escape(text: &str) -> String {
    super::on_one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_tables_open_on_a_click_and_text_is_escaped() {
        let rows: Vec<Vec<String>> = (0..SHOWN + 3).map(|i| vec![i.to_string(), escape("a < b")]).collect();
        let page = table(&["n#", "what"], &rows);
        assert!(page.contains("3 more") && page.contains("a &lt; b") && page.contains("<th class=\"n\">n</th>"), "{page}");
        assert_eq!(page.matches("<tr>").count(), SHOWN + 3 + 2);
        assert_eq!(table(&["n"], &[]), "");
        assert_eq!(shortened("abcdef", 4), "abc…");
    }
}
