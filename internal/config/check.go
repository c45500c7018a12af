package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxPEM bounds certificate files; the system's whole CA bundle has 230 KiB.
const maxPEM = 4 << 20

// require refuses an empty string and reports whether there is one.
func (b *builder) require(at place, value string) bool {
	if value == "" {
		b.report.refuse(at, MissingKey, emptyHint)
		return false
	}
	return true
}

// path returns a configured file name, made absolute if a base is known.
func (b *builder) path(name string) string {
	if name == "" || filepath.IsAbs(name) || b.opts.BaseDir == "" {
		return name
	}
	return filepath.Join(b.opts.BaseDir, name)
}

// secret returns a reference to a secret that stands in the file as key, or in
// a file named by keyFile, and loads it once to see that it can be.
func (b *builder) secret(at place, key string, inline *Secret, file *string) SecretRef {
	switch {
	case inline != nil && file != nil:
		b.report.refuse(at, InvalidValue, "found both %q and %q; keep one", key, key+"File")
	case file != nil:
		return b.load(SecretRef{at: at.at(key + "File"), file: b.path(*file)})
	case inline != nil:
		return b.load(SecretRef{at: at.at(key), inline: *inline})
	}
	return SecretRef{at: at.at(key)}
}

// load reports why a secret cannot be loaded.
func (b *builder) load(ref SecretRef) SecretRef {
	ref.getenv = b.opts.lookupEnv()
	b.failed(ref.Load())
	return ref
}

// failed reports the error of loading a secret, if any.
func (b *builder) failed(_ any, err error) {
	if problem, ok := errors.AsType[*Error](err); ok {
		b.report.errs = append(b.report.errs, problem)
	}
}

// checkKey reports a key that is not base64 of enough bytes; that it cannot be
// loaded at all has been reported before.
func (b *builder) checkKey(ref SecretRef) {
	if _, err := ref.Load(); ref.IsSet() && err == nil {
		b.failed(ref.LoadKey())
	}
}

// caFile checks that a file holds a certificate.
func (b *builder) caFile(at place, name string) string {
	if name == "" {
		return ""
	}
	name = b.path(name)
	content, err := readRegular(name, maxPEM)
	switch {
	case err != nil:
		b.report.refuse(at, InvalidValue, "%v", err)
	case !x509.NewCertPool().AppendCertsFromPEM(content):
		b.report.refuse(at, InvalidValue, "file %q holds no PEM certificate", name)
	}
	return name
}

// keyPair checks that two files hold a certificate and its key.
func (b *builder) keyPair(at place, certFile, keyFile string) (string, string) {
	if certFile == "" && keyFile == "" {
		return "", ""
	}
	if certFile == "" || keyFile == "" {
		b.report.refuse(at, MissingKey, "CertFile and KeyFile go together; one of them is missing or empty")
		return "", ""
	}
	certFile, keyFile = b.path(certFile), b.path(keyFile)
	cert, err := readRegular(certFile, maxPEM)
	if err != nil {
		b.report.refuse(at.at("CertFile"), InvalidValue, "%v", err)
		return "", ""
	}
	key, err := readRegular(keyFile, maxPEM)
	if err != nil {
		b.report.refuse(at.at("KeyFile"), InvalidValue, "%v", err)
		return "", ""
	}
	// The library's error is not shown: it is about the content of a key file.
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		b.report.refuse(at, InvalidValue, "files %q and %q are not a PEM certificate and its key", certFile, keyFile)
	}
	return certFile, keyFile
}

// isLoopback reports whether a host name or address stays on this machine.
func isLoopback(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isHost reports whether s can be a host name or an IP address.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-._", r)
	})
}

// splitAddr splits host:port; the host may be empty, the port must be a number.
func splitAddr(s string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host != "" && !isHost(host) {
		return "", false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return host, err == nil
}

// baseURL parses an absolute URL of http or https without user and fragment.
func baseURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHost(u.Hostname()) {
		return nil, false
	}
	if _, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && err != nil {
		return nil, false
	}
	dots := slices.ContainsFunc(strings.Split(u.Path, "/"), func(segment string) bool {
		return segment == "." || segment == ".."
	})
	return u, u.User == nil && !dots && !strings.Contains(s, "#") && !strings.ContainsFunc(s, unicode.IsSpace)
}

// showURL renders a wrong URL without what may be secret in it.
func showURL(s string) string {
	if strings.Contains(s, "@") {
		return "a URL with a user, which is not shown"
	}
	if before, _, found := strings.Cut(s, "?"); found {
		s = before + "?..."
	}
	return brief(s)
}
