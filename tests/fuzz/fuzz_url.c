/* SPDX-License-Identifier: MIT */
/* URLs: the input is one. What is understood can be described, and the description leads to the same place. */
#include "fuzz.h"

#include <errno.h>

#include "amqp/url.h"

static void expect_described(const struct url *url, size_t host)
{
	char text[2048], small[40];
	const char *error = NULL;
	struct url *back;

	url_describe(url, host, text, sizeof(text));
	EXPECT(strlen(text) < sizeof(text));
	EXPECT(!strchr(text, '@'));
	memset(small, 'Z', sizeof(small));
	url_describe(url, host, small, sizeof(small));
	EXPECT(memchr(small, '\0', sizeof(small)));
	if (strlen(text) + 8 > sizeof(text))
		return; /* cut */
	EXPECT(url_parse(text, &back, &error) == 0);
	EXPECT(back->tls == url->tls && back->count == 1 && back->hosts[0].port == url->hosts[host].port);
	EXPECT(strcmp(back->hosts[0].name, url->hosts[host].name) == 0);
	EXPECT(strcmp(back->vhost, url->vhost) == 0);
	EXPECT(strcmp(back->user, "guest") == 0 && strcmp(back->password, "guest") == 0);
	url_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	const char *error = NULL;
	struct url *url = NULL;
	int r;

	EXPECT(text);
	r = url_parse(text, &url, &error);
	if (r < 0) {
		EXPECT(r == -EINVAL && error && *error && !url);
	} else {
		EXPECT(url->count > 0 && *url->user && url->password && *url->vhost);
		for (size_t i = 0; i < url->count; i++) {
			EXPECT(*url->hosts[i].name && url->hosts[i].port > 0 && url->hosts[i].port < 65536);
			expect_described(url, i);
		}
		url_free(url);
	}
	free(text);
	return 0;
}
