package main

import (
	"errors"
	"testing"
)

func TestBypassProxy_KeepsWhatTheOperatorWrote(t *testing.T) {
	tests := []struct{ lower, upper, want string }{
		{"", "", "127.0.0.1"},
		{"example.org", "", "example.org,127.0.0.1"},
		{"", "example.org, .lan", "example.org,.lan,127.0.0.1"},
		{"a b", "b,c", "a,b,c,127.0.0.1"},
		{"127.0.0.1", "", "127.0.0.1"},
		{"*", "example.org", "*"},
	}
	for _, tt := range tests {
		o := newFakeOrthanc()
		o.env["no_proxy"], o.env["NO_PROXY"] = tt.lower, tt.upper
		if err := bypassProxy(o); err != nil {
			t.Fatal(err)
		}
		if o.env["no_proxy"] != tt.want || o.env["NO_PROXY"] != tt.want {
			t.Errorf("%q and %q became %v, want %q", tt.lower, tt.upper, o.env, tt.want)
		}
		if err := bypassProxy(o); err != nil || o.env["no_proxy"] != tt.want {
			t.Errorf("a second time, after a reset: %v, %v", o.env, err)
		}
	}
}

func TestBypassProxy_ReportsAnEnvironmentThatCannotBeSet(t *testing.T) {
	o := newFakeOrthanc()
	o.envErr = errors.New("out of memory")
	if err := bypassProxy(o); !errors.Is(err, o.envErr) {
		t.Errorf("err = %v", err)
	}
}
