//! The throughput-latency curve of a sweep as SVG: entries a second against the p50 and p99 of a request, both logarithmic.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use plotters::prelude::*;

use crate::report::{Latency, Report};

/// Takes one percentile of a latency, in milliseconds.
type Percentile = fn(&Latency) -> f64;

const SIZE: (u32, u32) = (900, 540);

/// Writes the curve.
pub(super) fn curve(report: &Report, file: &Path) -> Result<()> {
    let answered: Vec<_> =
        report.cases.iter().filter(|case| case.latency.count > 0 && case.entries_per_second > 0.0).collect();
    let (Some(first), Some(last)) = (answered.first(), answered.last()) else {
        bail!("there is nothing to plot")
    };
    let highest = answered.iter().map(|case| case.latency.p99_us).fold(1.0, f64::max) / 1e3;
    let lowest = answered.iter().map(|case| case.latency.p50_us).fold(f64::MAX, f64::min) / 1e3;
    let fastest = answered.iter().map(|case| case.entries_per_second).fold(last.entries_per_second, f64::max);
    let failed = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption(
            format!("five nodes, class {}, payload {} bytes", report.class, report.payload_bytes),
            ("sans-serif", 18),
        )
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (first.entries_per_second * 0.9..fastest * 1.1).log_scale(),
            (lowest * 0.7..highest * 1.3).log_scale(),
        )
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .x_desc("entries/s answered")
        .y_desc("latency from the due time, ms")
        .draw()
        .map_err(|error| failed(&error))?;
    let percentiles: [(&str, RGBColor, Percentile); 2] =
        [("p50", BLUE, |latency| latency.p50_us / 1e3), ("p99", RED, |latency| latency.p99_us / 1e3)];
    for (name, color, of) in percentiles {
        let points: Vec<(f64, f64)> =
            answered.iter().map(|case| (case.entries_per_second, of(&case.latency))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), &color))
            .map_err(|error| failed(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
        chart
            .draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))
            .map_err(|error| failed(&error))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .position(SeriesLabelPosition::UpperLeft)
        .draw()
        .map_err(|error| failed(&error))?;
    root.present().map_err(|error| failed(&error))?;
    Ok(())
}
