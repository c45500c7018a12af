//go:build chaos && race

package sim

// slowdown is what the race detector costs: a slice is enough where it watches.
const slowdown = 5
