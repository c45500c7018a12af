// Package report keeps the figures of chaos runs on containers, one backend
// beside the other, and writes them for machines (report.json), for readers
// (chaos.md) and for a glance (SVG).
package report
