//! The pictures, as SVG.

use crate::analysis::{self, Outcome, mean_relative, relative};
use crate::comparison::{ARENITE, CONTROL, Measure, NO_PURGE};
use crate::programs::{Kind, THREADS};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A picture that was drawn.
pub struct Picture {
    pub title: String,
    /// Its file's name.
    pub file: String,
}

/// All pictures.
pub struct Pictures {
    pub overview: Vec<Picture>,
    pub threads: Vec<Picture>,
}

/// Draws all pictures into a folder.
pub fn draw(folder: &Path, single: &[Outcome], scaling: &[Outcome]) -> Result<Pictures> {
    let mut pictures = Pictures { overview: Vec::new(), threads: Vec::new() };
    let means = Picture {
        title: "Geometric means: least CPU time and peak RSS, best peer of each program = 1"
            .to_owned(),
        file: "means.svg".to_owned(),
    };
    save(folder, &means, (760, 480), |area| draw_means(area, &means.title, single))?;
    pictures.overview.push(means);
    for (measure, file) in [(Measure::LeastCpu, "cpu-time.svg"), (Measure::PeakRss, "peak-rss.svg")]
    {
        let title = format!("By program: {}, best peer = 1", measure.name());
        let picture = Picture { title, file: file.to_owned() };
        let height = 120 + 22 * single.len() as u32;
        save(folder, &picture, (860, height), |area| {
            draw_programs(area, &picture.title, single, measure)
        })?;
        pictures.overview.push(picture);
    }
    for workload in scaled(scaling) {
        let title = format!("{workload}: wall time over threads, the same work in all");
        let picture = Picture { title, file: format!("threads-{workload}.svg") };
        save(folder, &picture, (760, 420), |area| {
            draw_threads(area, &picture.title, scaling, &workload)
        })?;
        pictures.threads.push(picture);
    }
    Ok(pictures)
}

fn save(
    folder: &Path,
    picture: &Picture,
    size: (u32, u32),
    draw: impl FnOnce(&Area) -> Result<()>,
) -> Result<()> {
    let path = folder.join(&picture.file);
    let area = SVGBackend::new(&path, size).into_drawing_area();
    area.fill(&WHITE)?;
    draw(&area)?;
    area.present().map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Arenite stands out; the others have the same colour in every picture.
fn colour(name: &str) -> RGBColor {
    const COLOURS: [RGBColor; 12] = [
        RGBColor(31, 119, 180),
        RGBColor(44, 160, 44),
        RGBColor(255, 127, 14),
        RGBColor(148, 103, 189),
        RGBColor(140, 86, 75),
        RGBColor(227, 119, 194),
        RGBColor(127, 127, 127),
        RGBColor(188, 189, 34),
        RGBColor(23, 190, 207),
        RGBColor(90, 90, 160),
        RGBColor(60, 120, 90),
        RGBColor(200, 150, 100),
    ];
    const NAMES: [&str; 10] = [
        "jemalloc",
        "mimalloc",
        "snmalloc",
        "rpmalloc",
        "tcmalloc",
        "tcmalloc_minimal",
        "system",
        "scudo",
        "hardened_malloc",
        "mimalloc-nothp",
    ];
    if name == ARENITE {
        return RGBColor(214, 39, 40);
    }
    COLOURS[NAMES.iter().position(|&one| one == name).unwrap_or(NAMES.len())]
}

/// All allocators but the control, Arenite last, so that it is drawn over the others.
fn drawn(outcomes: &[Outcome]) -> Vec<String> {
    let mut names = analysis::allocators(outcomes);
    names.retain(|name| ![ARENITE, CONTROL, NO_PURGE].contains(&name.as_str()));
    names.push(ARENITE.to_owned());
    names
}

/// A point per allocator: time to the right, memory upwards; the lower left is best.
fn draw_means(area: &Area, title: &str, outcomes: &[Outcome]) -> Result<()> {
    let mean = |name: &str, measure| Some(mean_relative(outcomes, name, measure)?.value);
    let points: Vec<(String, (f64, f64))> = drawn(outcomes)
        .into_iter()
        .filter_map(|name| {
            let point = (mean(&name, Measure::LeastCpu)?, mean(&name, Measure::PeakRss)?);
            Some((name, point))
        })
        .collect();
    let limit = |values: &mut dyn Iterator<Item = f64>| 1.15 * values.fold(1.1, f64::max);
    let right = 1.2 * limit(&mut points.iter().map(|(_, point)| point.0));
    let top = limit(&mut points.iter().map(|(_, point)| point.1));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((0.95..right).log_scale(), (0.95..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("least CPU time")
        .y_desc("peak RSS")
        .x_label_formatter(&|value| format!("{value:.1}"))
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    for (name, point) in points {
        let style = colour(&name);
        let label = Text::new(name.clone(), (8, -6), ("sans-serif", 13).into_font().color(&style));
        let radius = if name == ARENITE { 6 } else { 4 };
        let dot = EmptyElement::at(point) + Circle::new((0, 0), radius, style.filled()) + label;
        chart.draw_series(std::iter::once(dot))?;
    }
    Ok(())
}

/// A line per program with a point per allocator.
fn draw_programs(area: &Area, title: &str, outcomes: &[Outcome], measure: Measure) -> Result<()> {
    const MOST: f64 = 6.0;
    // Beyond it is the legend.
    const EDGE: f64 = 11.0;
    let rows = outcomes.len();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}; beyond {MOST} at {MOST}"), ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(190)
        .right_y_label_area_size(10)
        .build_cartesian_2d((0.4..EDGE).log_scale(), -0.7..rows as f64 - 0.3)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(12)
        .x_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    let height = |row: usize| (rows - 1 - row) as f64;
    for (row, outcome) in outcomes.iter().enumerate() {
        let line = [(0.4, height(row)), (MOST, height(row))];
        chart.draw_series(LineSeries::new(line, RGBColor(225, 225, 225)))?;
        let name = Text::new(outcome.name.clone(), (-180, -7), ("sans-serif", 13));
        chart.draw_series(std::iter::once(EmptyElement::at((0.4, height(row))) + name))?;
    }
    chart.draw_series(LineSeries::new([(1.0, -0.7), (1.0, rows as f64 - 0.3)], BLACK))?;
    for name in drawn(outcomes) {
        let style = colour(&name);
        let points = outcomes.iter().enumerate().filter_map(|(row, outcome)| {
            let ratio = relative(&outcome.comparison, &name, measure)?;
            Some((ratio.clamp(0.4, MOST), height(row)))
        });
        let radius = if name == ARENITE { 5 } else { 3 };
        let points: Vec<_> = points.collect();
        chart
            .draw_series(points.into_iter().map(|at| Circle::new(at, radius, style.filled())))?
            .label(name)
            .legend(move |at| Circle::new((at.0 + 8, at.1), 4, style.filled()));
    }
    let position = SeriesLabelPosition::UpperRight;
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

/// A line per allocator over the threads.
fn draw_threads(area: &Area, title: &str, scaling: &[Outcome], workload: &str) -> Result<()> {
    let lines: Vec<(String, Vec<(f64, f64)>)> = drawn(scaling)
        .into_iter()
        .map(|name| {
            let point = |&threads: &u32| {
                let wall = scaled_median(scaling, workload, threads, &name, Measure::Wall)?;
                Some((f64::from(threads), wall))
            };
            let points = THREADS.iter().filter_map(point).collect();
            (name, points)
        })
        .collect();
    let seconds = || lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let (low, high) = (seconds().fold(f64::MAX, f64::min), seconds().fold(0.0, f64::max));
    if high <= 0.0 {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (0.9..45.0).log_scale().base(2.0),
            (0.9 * low..1.1 * high).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("threads")
        .y_desc("seconds")
        .x_label_formatter(&|threads| format!("{threads:.0}"))
        .y_label_formatter(&|seconds| format!("{seconds:.2}"))
        .draw()?;
    for (name, points) in lines {
        let style = colour(&name).stroke_width(if name == ARENITE { 3 } else { 1 });
        chart
            .draw_series(LineSeries::new(points, style).point_size(2))?
            .label(name)
            .legend(move |at| PathElement::new([at, (at.0 + 16, at.1)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .draw()?;
    Ok(())
}

/// The workloads of the table of threads.
pub fn scaled(scaling: &[Outcome]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for outcome in scaling {
        let name = outcome.name.strip_prefix("scaling-").and_then(|rest| rest.rsplit_once('-'));
        if let Some((name, _)) = name
            && !names.iter().any(|one| one == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// An allocator's median in a workload with so many threads.
pub fn scaled_median(
    scaling: &[Outcome],
    workload: &str,
    threads: u32,
    allocator: &str,
    measure: Measure,
) -> Option<f64> {
    let name = format!("scaling-{workload}-{threads}");
    let outcome = scaling
        .iter()
        .find(|outcome| outcome.kind == Kind::Scaling(threads) && outcome.name == name)?;
    outcome.comparison.figure(allocator, measure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::fixture;

    #[test]
    fn pictures_name_every_allocator() {
        let folder = std::env::temp_dir().join(format!("suite-plots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the pictures");
        let mut threads =
            fixture("scaling-some-work-2", &[(ARENITE, 3.0), ("system", 2.0), ("broken", -1.0)]);
        threads.kind = Kind::Scaling(2);
        let single = [fixture("p", &[(ARENITE, 3.0), ("system", 2.0), ("broken", -1.0)])];
        let pictures = draw(&folder, &single, &[threads]).expect("the pictures");
        assert_eq!(pictures.threads[0].file, "threads-some-work.svg");
        for picture in pictures.overview.iter().chain(&pictures.threads) {
            let svg = std::fs::read_to_string(folder.join(&picture.file)).expect("a picture");
            assert!(svg.contains("arenite") && svg.contains("system"), "{}", picture.file);
        }
        std::fs::remove_dir_all(&folder).expect("the folder is ours");
    }
}
