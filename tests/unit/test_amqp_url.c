/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>
#include <stdio.h>

#include "amqp/url.h"

static struct url *parse(const char *text)
{
	struct url *url = NULL;
	const char *error = "";
	int r = url_parse(text, &url, &error);

	if (r < 0)
		fail_msg("%s: %s", text, error);
	return url;
}

static void refuse(const char *text)
{
	struct url *url;
	const char *error = NULL;

	if (url_parse(text, &url, &error) != -EINVAL)
		fail_msg("%s was taken", text);
	assert_non_null(error);
}

static void everything_has_a_default(void **state)
{
	struct url *url = parse("amqp://localhost");

	(void)state;
	assert_false(url->tls);
	assert_string_equal(url->user, "guest");
	assert_string_equal(url->password, "guest");
	assert_string_equal(url->vhost, "/");
	assert_int_equal(url->count, 1);
	assert_string_equal(url->hosts[0].name, "localhost");
	assert_int_equal(url->hosts[0].port, 5672);
	url_free(url);
}

static void an_empty_vhost_is_the_default(void **state)
{
	struct url *url = parse("amqp://h/");

	(void)state;
	assert_string_equal(url->vhost, "/");
	url_free(url);
	url = parse("amqp://h/%2F");
	assert_string_equal(url->vhost, "/");
	url_free(url);
}

static void every_part_is_unescaped(void **state)
{
	struct url *url = parse("amqp://us%65r:p%40ss%2f%80%ff@h%6fst:1234/v%20host");

	(void)state;
	assert_string_equal(url->user, "user");
	assert_string_equal(url->password, "p@ss/\x80\xff");
	assert_string_equal(url->hosts[0].name, "host");
	assert_int_equal(url->hosts[0].port, 1234);
	assert_string_equal(url->vhost, "v host");
	url_free(url);
	url = parse("amqp://h/v@host");
	assert_string_equal(url->vhost, "v@host");
	url_free(url);
}

static void several_hosts(void **state)
{
	struct url *url = parse("amqp://u:p@a:1,b,[::1]:3,[fe80::2]/v");

	(void)state;
	assert_int_equal(url->count, 4);
	assert_string_equal(url->hosts[0].name, "a");
	assert_int_equal(url->hosts[0].port, 1);
	assert_string_equal(url->hosts[1].name, "b");
	assert_int_equal(url->hosts[1].port, 5672);
	assert_string_equal(url->hosts[2].name, "::1");
	assert_int_equal(url->hosts[2].port, 3);
	assert_string_equal(url->hosts[3].name, "fe80::2");
	assert_int_equal(url->hosts[3].port, 5672);
	url_free(url);
}

static void a_user_without_password(void **state)
{
	struct url *url = parse("amqp://u@h");

	(void)state;
	assert_string_equal(url->user, "u");
	assert_string_equal(url->password, "");
	url_free(url);
}

static void tls_has_its_port(void **state)
{
	struct url *url = parse("AMQPS://h");

	(void)state;
	assert_true(url->tls);
	assert_int_equal(url->hosts[0].port, 5671);
	url_free(url);
}

static void what_is_no_url_is_refused(void **state)
{
	(void)state;
	refuse("");
	refuse("http://h/");
	refuse("amqp:/h");
	refuse("amqp://");
	refuse("amqp:///v");
	refuse("amqp://h,/v");
	refuse("amqp://,h/v");
	refuse("amqp://h:/v");
	refuse("amqp://h:0/v");
	refuse("amqp://h:65536/v");
	refuse("amqp://h:123456/v");
	refuse("amqp://h:5x/v");
	refuse("amqp://h:-5/v");
	refuse("amqp://[::1/v");
	refuse("amqp://[]/v");
	refuse("amqp://[::1]x/v");
	refuse("amqp://h/a/b");
	refuse("amqp://h/v?heartbeat=5");
	refuse("amqp://h/v#f");
	refuse("amqp://:p@h");
	refuse("amqp://u:p@ss@h");
	refuse("amqp://u@p:ss@h/v");
	refuse("amqp://u%4:p@h");
	refuse("amqp://u:p%zz@h");
	refuse("amqp://u:p%00x@h");
	refuse("amqp://h/%");
}

static void long_things_are_refused(void **state)
{
	char text[2048] = "amqp://h/";

	(void)state;
	memset(text + 9, 'v', 256);
	text[9 + 256] = '\0';
	refuse(text);
	text[9 + 255] = '\0';
	url_free(parse(text));
	strcpy(text, "amqp://h");
	for (int i = 0; i < 64; i++)
		strcat(text, ",h");
	refuse(text);
}

static void a_description_has_no_credentials(void **state)
{
	struct url *url = parse("amqp://user:secret@[::1]:7,h%2c/a%2fb");
	char text[128];

	(void)state;
	url_describe(url, 0, text, sizeof(text));
	assert_string_equal(text, "amqp://[::1]:7/a%2Fb");
	url_describe(url, 1, text, sizeof(text));
	assert_string_equal(text, "amqp://h%2C:5672/a%2Fb");
	url_describe(url, 1, text, 12);
	assert_int_equal(strnlen(text, 12) < 12, 1);
	url_free(url);
}

/* Nothing that can be cut or changed crashes it. */
static void mutations_are_survived(void **state)
{
	static const char good[] = "amqps://us%41er:pa%42ss@host:5672,[::1]:99,c/v%2fhost";
	uint64_t random = 1;
	char text[sizeof(good)], peer[40];
	struct url *url;
	const char *error;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		memcpy(text, good, sizeof(good));
		for (int j = 0; j < 3; j++)
			text[unit_random(&random) % (sizeof(good) - 1)] = (char)unit_random(&random);
		text[unit_random(&random) % sizeof(good)] = '\0';
		if (url_parse(text, &url, &error) < 0)
			continue;
		url_describe(url, url->count - 1, peer, sizeof(peer));
		url_free(url);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(everything_has_a_default),         cmocka_unit_test(an_empty_vhost_is_the_default),
	    cmocka_unit_test(every_part_is_unescaped),          cmocka_unit_test(several_hosts),
	    cmocka_unit_test(a_user_without_password),          cmocka_unit_test(tls_has_its_port),
	    cmocka_unit_test(what_is_no_url_is_refused),        cmocka_unit_test(long_things_are_refused),
	    cmocka_unit_test(a_description_has_no_credentials), cmocka_unit_test(mutations_are_survived),
	};

	return cmocka_run_group_tests_name("amqp url", tests, NULL, NULL);
}
