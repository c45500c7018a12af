package report

import (
	"fmt"
	"html"
	"strings"
)

// figure is an SVG that is being drawn. A hundred lines of it draw all that is
// needed here; a plotting library would bring in fonts, images and PDF.
type figure struct {
	width, height int
	body          strings.Builder
}

const (
	ink   = "#1f2933"
	faint = "#cbd2d9"
	good  = "#5aa469"
	bad   = "#c0392b"
	other = "#e9a23b"
)

// colours of the backends, readable side by side for the colour-blind as well.
var colours = map[string]string{"gossip": "#0072b2", "redis": "#d55e00", "memory": "#7f7f7f"}

func newFigure(width, height int, title string) *figure {
	f := &figure{width: width, height: height}
	f.text(10, 20, "start", 14, title)
	return f
}

func (f *figure) text(x, y float64, anchor string, size int, s string) {
	fmt.Fprintf(&f.body, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s">%s</text>`+"\n", x, y, anchor, size, ink, html.EscapeString(s))
}

// rect draws a box; its title shows where a browser's mouse rests.
func (f *figure) rect(x, y, w, h float64, colour, title string) {
	fmt.Fprintf(&f.body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s">`, x, y, max(w, 0.5), h, colour)
	if title != "" {
		fmt.Fprintf(&f.body, `<title>%s</title>`, html.EscapeString(title))
	}
	f.body.WriteString("</rect>\n")
}

func (f *figure) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(&f.body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
}

// steps draws a line that goes up by one at each x.
func (f *figure) steps(points [][2]float64, colour string) {
	var d strings.Builder
	for i, p := range points {
		if i == 0 {
			fmt.Fprintf(&d, "M%.1f %.1f", p[0], p[1])
			continue
		}
		fmt.Fprintf(&d, "H%.1f V%.1f", p[0], p[1])
	}
	fmt.Fprintf(&f.body, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", d.String(), colour)
}

// String returns the finished figure.
func (f *figure) String() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">`+"\n"+
		`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n%s</svg>\n", f.width, f.height, f.body.String())
}

// axis is a scale along x.
type axis struct{ left, right, most float64 }

func (a axis) at(v float64) float64 { return a.left + (a.right-a.left)*v/max(a.most, 1e-9) }

// seconds draws a scale of time below y.
func (f *figure) seconds(a axis, top, bottom float64) {
	step := 30.0
	for a.most/step > 12 {
		step *= 2
	}
	for s := 0.0; s <= a.most; s += step {
		f.line(a.at(s), top, a.at(s), bottom, faint)
		f.text(a.at(s), bottom+14, "middle", 10, fmt.Sprintf("%d:%02d", int(s)/60, int(s)%60))
	}
}
