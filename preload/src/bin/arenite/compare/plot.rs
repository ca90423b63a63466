//! The comparison as a picture: wall time and peak RSS relative to Arenite.

use super::allocators::ARENITE;
use super::statistics::Ratio;
use super::summary::{Figure, Summary};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Sizes in pixels.
const WIDTH: u32 = 800;
const ROW: u32 = 46;
const MARGIN: u32 = 14;
/// Above the rows the title and the legend, below them the axis.
const HEAD: u32 = 64;
const FOOT: u32 = 50;
/// Of a letter, about.
const LETTER: u32 = 8;

/// Letters of the title; the end of a longer command is cut off.
const TITLE: usize = 90;

/// The figures, their names and colours (of Okabe and Ito, whom few confuse).
const BARS: [(Figure, &str, RGBColor); 2] = [
    (Figure::Wall, "wall time", RGBColor(0, 114, 178)),
    (Figure::PeakRss, "peak RSS", RGBColor(230, 159, 0)),
];

/// Thickness of a bar, of which two and a gap fill a row of height 1.
const THICKNESS: f64 = 0.36;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// An SVG document.
pub fn svg(title: &str, summaries: &[Summary<'_>]) -> Result<String> {
    let rows = u32::try_from(summaries.len())?;
    let mut text = String::new();
    let area =
        SVGBackend::with_string(&mut text, (WIDTH, HEAD + ROW * rows + FOOT)).into_drawing_area();
    draw(&area, title, summaries).map_err(|error| anyhow!("the plot: {error}"))?;
    drop(area);
    Ok(text)
}

/// One bar, and its interval.
fn bar(summary: &Summary<'_>, figure: Figure) -> Option<Ratio> {
    if summary.allocator().name == ARENITE && summary.failure().is_none() {
        return summary.spread(figure).map(|_| Ratio { value: 1.0, low: None, high: None });
    }
    summary.ratio(figure)
}

/// A title that fits, without what an XML document may not hold.
fn fit(title: &str) -> String {
    let plain = title.replace(char::is_control, " ");
    match plain.char_indices().nth(TITLE) {
        None => plain,
        Some((end, _)) => format!("{}…", &plain[..end]),
    }
}

/// The end of the axis: that of the longest whisker, unless it is far beyond all bars.
fn longest(summaries: &[Summary<'_>]) -> f64 {
    let bars = || summaries.iter().flat_map(|one| BARS.map(|(figure, ..)| bar(one, figure)));
    let most = |value: fn(Ratio) -> f64| bars().flatten().map(value).fold(1.0, f64::max);
    1.08 * most(|ratio| ratio.high.unwrap_or(ratio.value)).min(2.0 * most(|ratio| ratio.value))
}

fn draw(
    area: &Area<'_>,
    title: &str,
    summaries: &[Summary<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let font = ("sans-serif", 14).into_font();
    area.draw(&Text::new(fit(title), (MARGIN as i32, 10), ("sans-serif", 16).into_font()))?;
    legend(area)?;
    let letters = summaries.iter().map(|one| one.allocator().name.chars().count()).max();
    let names = LETTER * u32::try_from(letters.unwrap_or(0))? + 2 * MARGIN;
    let end = longest(summaries);
    let mut chart = ChartBuilder::on(area)
        .margin_top(HEAD)
        .margin_right(2 * MARGIN)
        .set_label_area_size(LabelAreaPosition::Left, names.min(WIDTH / 2))
        .set_label_area_size(LabelAreaPosition::Bottom, FOOT)
        .build_cartesian_2d(0.0..end, summaries.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_max_light_lines(1)
        .disable_y_axis()
        .x_desc("relative to Arenite; whiskers: 95 % confidence interval")
        .x_label_style(font.clone())
        .axis_desc_style(font.clone())
        .draw()?;
    for (row, summary) in summaries.iter().enumerate() {
        let row = row as f64;
        for (place, bar) in (0u8..).zip(BARS) {
            let top = row + 0.5 + (f64::from(place) - 1.0) * THICKNESS;
            draw_bar(&mut chart, summary, bar, top)?;
        }
        let place = chart.backend_coord(&(0.0, row + 0.5));
        let style = TextStyle::from(font.clone()).pos(Pos::new(HPos::Right, VPos::Center));
        let name = summary.allocator().name.clone();
        area.draw(&Text::new(name, (place.0 - LETTER as i32, place.1), style))?;
        if summary.failure().is_some() {
            let style = TextStyle::from(font.clone()).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new("failed", (place.0 + LETTER as i32, place.1), style))?;
        }
    }
    let one = [(1.0, 0.0), (1.0, summaries.len() as f64)];
    chart.draw_series([PathElement::new(one, BLACK.mix(0.6))])?;
    area.present()?;
    Ok(())
}

/// A bar with the whiskers of its interval, which end at the end of the axis.
fn draw_bar(
    chart: &mut Chart<'_, '_>,
    summary: &Summary<'_>,
    (figure, _, colour): (Figure, &str, RGBColor),
    top: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(ratio) = bar(summary, figure) else { return Ok(()) };
    let bottom = top + 0.95 * THICKNESS;
    chart.draw_series([Rectangle::new([(0.0, top), (ratio.value, bottom)], colour.filled())])?;
    let Some((low, high)) = ratio.low.zip(ratio.high) else { return Ok(()) };
    let end = chart.x_range().end;
    let (low, high) = (low.min(end), high.min(end));
    let (middle, cap) = (f64::midpoint(top, bottom), THICKNESS / 4.0);
    for line in [
        [(low, middle), (high, middle)],
        [(low, middle - cap), (low, middle + cap)],
        [(high, middle - cap), (high, middle + cap)],
    ] {
        chart.draw_series([PathElement::new(line, BLACK.stroke_width(2))])?;
    }
    Ok(())
}

fn legend(area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let mut left = MARGIN as i32;
    for (_, name, colour) in BARS {
        area.draw(&Rectangle::new([(left, 38), (left + 12, 50)], colour.filled()))?;
        let font = ("sans-serif", 14).into_font();
        area.draw(&Text::new(name, (left + 18, 37), font))?;
        left += 110;
    }
    Ok(())
}
