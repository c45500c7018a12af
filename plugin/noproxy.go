package main

import (
	"fmt"
	"slices"
	"strings"
)

// loopback is the only address the data path listens on.
const loopback = "127.0.0.1"

// bypassProxy keeps libcurl from sending requests for our loopback listener,
// password included, to a proxy named by Orthanc's HttpProxy or by http_proxy.
// libcurl reads no_proxy and ignores NO_PROXY as soon as the former is set, so
// what the operator wrote into either is kept in both.
func bypassProxy(env environment) error {
	merged := mergeNoProxy(env.Getenv("no_proxy"), env.Getenv("NO_PROXY"))
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		if err := env.Setenv(name, merged); err != nil {
			return fmt.Errorf("set %s, without which a proxy would see the loopback password: %w", name, err)
		}
	}
	return nil
}

// mergeNoProxy joins lists separated by commas or blanks and adds the loopback
// address. A "*" means everything to libcurl only where it stands alone.
func mergeNoProxy(lists ...string) string {
	var hosts []string
	for _, list := range append(lists, loopback) {
		for _, h := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
			if h == "*" {
				return "*"
			}
			if !slices.Contains(hosts, h) {
				hosts = append(hosts, h)
			}
		}
	}
	return strings.Join(hosts, ",")
}
