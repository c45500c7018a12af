package config

import (
	"net/url"
	"strings"
)

// readOrthanc reads the keys of Orthanc and of its DICOMweb plugin that concern
// us. What is wrong there is for them to refuse, so other types count as absent.
func readOrthanc(d *document, opts Options) Orthanc {
	if d.root == nil {
		return Orthanc{}
	}
	if opts.Expand {
		x := newExpander(opts.lookupEnv(), func([]string, string) {})
		for _, key := range []string{"HttpProxy", "HttpsCACertificates"} {
			d.root[key] = x.tree(d.root[key], nil)
		}
	}
	dicomWeb, _ := d.root["DicomWeb"].(map[string]any)
	proxy, _ := d.root["HttpProxy"].(string)
	return Orthanc{
		DicomWebEnabled:     boolOr(dicomWeb["Enable"], true),
		DicomWebRoot:        slashed(stringOr(dicomWeb["Root"], "/dicom-web/")),
		ServersInDatabase:   boolOr(dicomWeb["ServersInDatabase"], false),
		DicomWebServers:     dicomWebServers(dicomWeb["Servers"]),
		HTTPProxy:           NewSecret(proxy),
		HTTPSVerifyPeers:    boolOr(d.root["HttpsVerifyPeers"], true),
		HTTPSCACertificates: stringOr(d.root["HttpsCACertificates"], ""),
	}
}

func boolOr(value any, otherwise bool) bool {
	if b, ok := value.(bool); ok {
		return b
	}
	return otherwise
}

func stringOr(value any, otherwise string) string {
	if s, ok := value.(string); ok {
		return s
	}
	return otherwise
}

func slashed(root string) string {
	if root = strings.Trim(root, "/"); root == "" {
		return "/"
	}
	return "/" + root + "/"
}

// dicomWebServers reads both shapes that the DICOMweb plugin takes: an array
// that begins with the URL, or an object with Url. Passwords are left out.
func dicomWebServers(value any) map[string]string {
	servers, _ := value.(map[string]any)
	urls := make(map[string]string, len(servers))
	for name, server := range servers {
		var text string
		switch s := server.(type) {
		case []any:
			if len(s) > 0 {
				text, _ = s[0].(string)
			}
		case map[string]any:
			text, _ = s["Url"].(string)
		}
		urls[name] = withoutUser(text)
	}
	return urls
}

func withoutUser(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "" // it may hold anything
	}
	u.User = nil
	return u.String()
}

// warnOrthanc tells what in the rest of orthanc.json will surprise.
func warnOrthanc(c *Config, r *report) {
	if c.Orthanc.DicomWebRoot == "" || !c.Enabled {
		return
	}
	at := place{path: "DicomWeb"}
	if !c.Orthanc.DicomWebEnabled {
		r.warn(at.at("Enable"), "is false: the plugin registers its servers with Orthanc's DICOMweb plugin, which is off")
	}
	if c.Orthanc.ServersInDatabase {
		r.warn(at.at("ServersInDatabase"), "is true: Orthanc keeps the plugin's loopback address and password in its database until a regular stop")
	}
	for _, server := range c.Servers {
		if _, both := c.Orthanc.DicomWebServers[server.Name]; both {
			r.warn(at.at("Servers"), "%q is an OAuth server as well, whose registration replaces this entry; remove it here", server.Name)
		}
	}
}
