"""Style sheet of reports and status page, for screens and print.

Blue, grey and the orange of the baseline are distinguishable with any colour vision (Okabe and Ito 2008).
"""

CSS = """
:root {
  color-scheme: light dark;
  --background: #fff; --text: #1d1f23; --muted: #62666e; --border: #e2e3e6; --panel: #f4f5f6;
  --recorded: #9a9ea6; --policy: #0064a8; --baseline: #c35a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --background: #16181b; --text: #e4e5e7; --muted: #9ba0a8; --border: #33363b; --panel: #202327;
    --recorded: #868b93; --policy: #63b6ee; --baseline: #eb9a4b;
  }
}
@media print {
  :root {
    color-scheme: light;
    --background: #fff; --text: #000; --muted: #555; --border: #ddd; --panel: #f4f5f6;
    --recorded: #9a9ea6; --policy: #0064a8; --baseline: #c35a00;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 62rem; background: var(--background); color: var(--text);
  font: 16px/1.55 Charter, 'Bitstream Charter', 'Iowan Old Style', 'Palatino Linotype', Georgia, serif;
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
h1, h2, h3 { line-height: 1.25; font-weight: 600; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--border); }
h3 { font-size: 1.05rem; margin: 0; }
h1, h2, h3, .subtitle { overflow-wrap: anywhere; }
p { max-width: 44rem; margin: .6rem 0; }
small, .subtitle, figcaption, .method { color: var(--muted); }
.subtitle { font-size: 1.05rem; margin: 0; }
figure { margin: 1.2rem 0; break-inside: avoid; }
figcaption, .method { font-size: .875rem; line-height: 1.5; }
figcaption { margin-top: .6rem; max-width: 48rem; }
figcaption b { color: var(--text); }
table, dl, .plots, .legend, .tile, .frames, .info {
  font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}

.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 1.2rem 2rem; margin: 2rem 0;
}
.tile {
  border-top: 2px solid var(--text); padding-top: .5rem; font-size: .8rem; line-height: 1.4; color: var(--muted);
}
.tile b { display: block; font-size: 1.75rem; line-height: 1.3; font-weight: 500; color: var(--text); }
.tile.baseline { border-color: var(--baseline); }
.tile.policy { border-color: var(--policy); }

dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .85rem; margin: 1.5rem 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th { font-weight: 500; color: var(--muted); vertical-align: bottom; line-height: 1.3; }
th, td { padding: .32rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--border); }
th:first-child, td:first-child {
  text-align: left; padding-left: 0; position: sticky; left: 0; z-index: 1; background: var(--background);
}
th:last-child, td:last-child { padding-right: 0; }
td.gauge { width: 26%; min-width: 6rem; }
.gauge div { position: relative; height: .7rem; background: var(--panel); }
.gauge i, .gauge b { position: absolute; }
.gauge i { left: 0; top: 0; bottom: 0; background: var(--policy); }
.gauge b {
  top: -3px; bottom: -3px; width: 3px; margin-left: -1.5px;
  background: var(--baseline); outline: 1px solid var(--background);
}
.gauge s {
  position: absolute; top: 50%; height: 2px; margin-top: -1px;
  background: var(--text); outline: 1px solid var(--background);
}

.plots {
  display: grid; grid-template-columns: auto minmax(0, 1fr); column-gap: .5rem; font-size: .75rem; line-height: 1.2;
}
.plots svg { display: block; width: 100%; height: var(--height, 11rem); overflow: visible; }
.x-axis { grid-column: -2; text-align: center; color: var(--muted); }
.y-axis { position: relative; min-width: 2.6rem; color: var(--muted); }
.y-axis span { position: absolute; right: 0; transform: translateY(-50%); white-space: nowrap; }
.x-axis .ticks { position: relative; height: 1.1rem; margin-top: .3rem; }
.x-axis .ticks span { position: absolute; transform: translateX(-50%); }
.pair .plots { padding-right: 1rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 3rem; }

svg * { vector-effect: non-scaling-stroke; fill: none; }
.line.grid { stroke: var(--border); stroke-width: 1; }
.line { stroke-width: 1.75; stroke-linejoin: round; }
.line.recorded { stroke: var(--recorded); stroke-width: 4; }
.line.policy { stroke: var(--policy); }
.line.baseline { stroke: var(--baseline); stroke-dasharray: 5 3; }
.line.ideal { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 3; }
.dots { stroke-linecap: round; stroke: var(--policy); stroke-width: 7; }
.dots.hollow { stroke: var(--background); stroke-width: 4; }
.dense .dots { stroke-width: 4; }
.dense .dots.hollow { stroke-width: 2; }
.bar { fill: var(--recorded); }

.legend {
  display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin: .4rem 0 .6rem; font-size: .8rem; color: var(--muted);
}
.legend span { display: inline-flex; align-items: center; gap: .45rem; }
.legend svg { width: 1.9rem; height: .8rem; overflow: visible; }

.episode { margin: 2.2rem 0 3rem; break-inside: avoid; }
.info { font-size: .8rem; color: var(--muted); margin: .15rem 0 .7rem; }
.episode .plots {
  --height: 4.6rem; grid-template-columns: minmax(7rem, max-content) auto minmax(0, 1fr); row-gap: .5rem;
}
.episode .plots > svg { background: var(--panel); }
.episode .dots.hollow { stroke: var(--panel); }
.episode .plots > .name { align-self: center; overflow-wrap: anywhere; }
small { font-size: inherit; }
.name small { display: block; }
.frames { grid-column: -2; display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 2px; }
.frames figure { margin: 0; text-align: center; color: var(--muted); }
.frames img { display: block; width: 100%; height: auto; margin-bottom: .15rem; }
.filmstrip img { display: block; width: 100%; height: auto; }
.filmstrip div { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); text-align: center; }
.filmstrip, details {
  font: .75rem/1.4 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;
}
.filmstrip, summary { color: var(--muted); }
details { margin: .8rem 0; }
.video img { display: block; height: 12rem; margin-top: .3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }

@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  table { font-size: .75rem; }
  th, td { padding: .32rem .2rem; }
  td:first-child { white-space: normal; }
  .gauge { display: none; }
  .episode .plots { grid-template-columns: auto minmax(0, 1fr); row-gap: .3rem; }
  .episode .plots > .name { grid-column: 1 / -1; margin-top: .6rem; }
  .name small { display: inline; margin-left: .3rem; }
}
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; }
  h2 { margin-top: 1rem; }
  .tiles, dl { margin: 1rem 0; }
  h2, h3, .legend, .info { break-after: avoid; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .pair { break-inside: avoid; }
  .video { display: none; }
  .plots { --height: 3cm; font-size: 6pt; }
  .episode { margin: .6rem 0 1rem; }
  .episode .plots { --height: .85cm; row-gap: .1cm; }
}
"""
