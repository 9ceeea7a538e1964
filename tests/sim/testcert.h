/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A certificate for tests, ECDSA with P-256, self-signed for sim.example, good for a hundred years;
 * and its key, which is as public as everything here. PEM.
 */
#ifndef TESTS_SIM_TESTCERT_H
#define TESTS_SIM_TESTCERT_H

#define TEST_CERT                                                            \
	"-----BEGIN CERTIFICATE-----\n"                                      \
	"MIIBqzCCAVCgAwIBAgIUBduULXK6cKssWgJY2pr2zjhEMVUwCgYIKoZIzj0EAwIw\n" \
	"FjEUMBIGA1UEAwwLc2ltLmV4YW1wbGUwIBcNMjYxMTI2MTc0NzMxWhgPMjEyNjEx\n" \
	"MDIxNzQ3MzFaMBYxFDASBgNVBAMMC3NpbS5leGFtcGxlMFkwEwYHKoZIzj0CAQYI\n" \
	"KoZIzj0DAQcDQgAEQnJVlRtdfBiG6T8DvdAGIxGYe6EZByETtFnfw72+/QGMNdwN\n" \
	"K+Ce/8ea5Vqf/AEHaUMkgGPodamH9hj/qKAkwaN6MHgwHQYDVR0OBBYEFJk5swKH\n" \
	"prcNg1trLxB7XPbSTBshMB8GA1UdIwQYMBaAFJk5swKHprcNg1trLxB7XPbSTBsh\n" \
	"MA8GA1UdEwEB/wQFMAMBAf8wJQYDVR0RBB4wHIILc2ltLmV4YW1wbGWCDSouc2lt\n" \
	"LmV4YW1wbGUwCgYIKoZIzj0EAwIDSQAwRgIhALGxQ8x3uRc9mqwKd0y+cZtjb/i5\n" \
	"aisLM4TW6uD9H9tsAiEA0WH8oZ6KTwveJBdZMHSLoGhyCQ/1RdddassjD4hadQw=\n" \
	"-----END CERTIFICATE-----\n"
#define TEST_KEY                                                             \
	"-----BEGIN PRIVATE KEY-----\n"                                      \
	"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZhBPA5/s3jWOh+Jf\n" \
	"H2eDKwUHrOQmwFtVbH1YSQxxP9uhRANCAARCclWVG118GIbpPwO90AYjEZh7oRkH\n" \
	"IRO0Wd/Dvb79AYw13A0r4J7/x5rlWp/8AQdpQySAY+h1qYf2GP+ooCTB\n"         \
	"-----END PRIVATE KEY-----\n"

#endif
