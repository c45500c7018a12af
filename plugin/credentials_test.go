package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestCredentials_RedactThemselves(t *testing.T) {
	o := newFakeOrthanc()
	c := newCredentials()
	newLogger(o, slog.LevelInfo).Info("x", "c", c)
	all := strings.Join(o.lines, "") + fmt.Sprint(c) + fmt.Sprintf("%+v %#v %s", c, c, c)
	if strings.Contains(all, c.password) {
		t.Errorf("the password shows in %q", all)
	}
}

func TestCredentials_AuthorizeNobodyElse(t *testing.T) {
	c := newCredentials()
	tests := []struct {
		user, password string
		want           bool
	}{
		{c.user, c.password, true},
		{c.user, "", false},
		{c.user, c.password + "x", false},
		{c.user, c.password[1:], false},
		{"", c.password, false},
		{"admin", c.password, false},
	}
	for _, tt := range tests {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(tt.user, tt.password)
		if got := c.authorize(r); got != tt.want {
			t.Errorf("%q with %d characters: %v", tt.user, len(tt.password), got)
		}
	}
	if c.authorize(&http.Request{Header: http.Header{"Authorization": {"Bearer " + c.password}}}) {
		t.Error("a bearer token passes")
	}
}
