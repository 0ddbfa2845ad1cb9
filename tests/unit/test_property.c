/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/property.h>

#include <errno.h>
#include <stdio.h>

static int setup(void **state)
{
	*state = unit_message("body");
	return 0;
}

static int teardown(void **state)
{
	mqfs_message_free(*state);
	return 0;
}

static int set(struct mqfs_message *message, const char *name, const char *value)
{
	return mqfs_property_set(message, name, value, strlen(value));
}

static void check_get(const struct mqfs_message *message, const char *name, const char *expected)
{
	char *text;
	size_t bytes;

	assert_int_equal(mqfs_property_get(message, name, &text, &bytes), 0);
	assert_string_equal(text, expected);
	assert_int_equal(bytes, strlen(expected));
	free(text);
}

static int get_fails(const struct mqfs_message *message, const char *name)
{
	char *text = (char *)name;
	size_t bytes = 77;
	int r = mqfs_property_get(message, name, &text, &bytes);

	assert_ptr_equal(text, name);
	assert_int_equal(bytes, 77);
	return r;
}

static void sets_gets_and_removes(void **state)
{
	static const char *const names[] = {
	    "content-type", "content-encoding", "correlation-id",           "reply-to", "type", "app-id",
	    "message-id",   "header.trace",     "header.gr\xc3\xbc\xc3\x9f"};
	struct mqfs_message *message = *state;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(get_fails(message, names[i]), -ENODATA);
		assert_int_equal(mqfs_property_remove(message, names[i]), -ENODATA);
		assert_int_equal(set(message, names[i], "one"), 0);
		assert_int_equal(set(message, names[i], names[i]), 0);
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		check_get(message, names[i], names[i]);
	assert_string_equal(message->reply_to, "reply-to");
	assert_string_equal(message->app_id, "app-id");
	assert_string_equal(mqfs_headers_string(&message->headers, "trace"), "header.trace");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(mqfs_property_remove(message, names[i]), 0);
		assert_int_equal(get_fails(message, names[i]), -ENODATA);
	}
	assert_int_equal(message->headers.count, 0);
}

static void takes_priorities(void **state)
{
	static const char *const bad[] = {"", "256", "-1", "1.5", " 1", "1 ", "0x1", "seven", "99999999999", "1\n"};
	struct mqfs_message *message = *state;

	assert_int_equal(get_fails(message, "priority"), -ENODATA);
	assert_int_equal(mqfs_property_remove(message, "priority"), -ENODATA);
	assert_int_equal(set(message, "priority", "0"), 0);
	check_get(message, "priority", "0");
	assert_int_equal(mqfs_property_remove(message, "priority"), 0);
	assert_int_equal(set(message, "priority", "255"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(set(message, "priority", bad[i]), -EINVAL);
		assert_int_equal(message->priority, 255);
	}
	assert_int_equal(mqfs_property_set(message, "priority", "7xx", 1), 0); /* bytes count, not a NUL */
	assert_int_equal(message->priority, 7);
	assert_int_equal(mqfs_property_remove(message, "priority"), 0);
	assert_int_equal(message->priority, -1);
}

static void takes_expirations(void **state)
{
	static const char *const bad[] = {"", "-1", "1.5", "1s", "4294967296", "soon", "00000000001"};
	struct mqfs_message *message = *state;

	assert_int_equal(set(message, "expiration", "4294967295"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(set(message, "expiration", bad[i]), -EINVAL);
		assert_string_equal(message->expiration, "4294967295");
	}
	check_get(message, "expiration", "4294967295");
	assert_int_equal(mqfs_property_remove(message, "expiration"), 0);
	assert_null(message->expiration);
}

static void refuses_bad_text(void **state)
{
	static const struct {
		const char *value;
		size_t bytes;
	} bad[] = {{"a\0b", 3}, {"a\n", 2}, {"\033[2J", 4}, {"\x7f", 1}, {"\xc2\x9b", 2}, {"\xff", 1}, {"\xe2\x82", 2}};
	struct mqfs_message *message = *state;
	char text[257];

	assert_int_equal(set(message, "type", "kept"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(mqfs_property_set(message, "type", bad[i].value, bad[i].bytes), -EINVAL);
		assert_string_equal(message->type, "kept");
	}
	memset(text, 'x', sizeof(text));
	assert_int_equal(mqfs_property_set(message, "type", text, 256), -EINVAL);
	assert_string_equal(message->type, "kept");
	assert_int_equal(mqfs_property_set(message, "type", text, 255), 0);
	assert_int_equal(strlen(message->type), 255);
	assert_int_equal(mqfs_property_set(message, "type", NULL, 0), 0);
	check_get(message, "type", "");
}

static void refuses_what_is_not_theirs(void **state)
{
	static const char *const owned[] = {"user-id",  "timestamp", "delivery-mode", "redelivered",
	                                    "attempts", "exchange",  "routing-key",   "queue"};
	static const char *const none[] = {"", "Priority", "headers", "header", "delay", "content_type", "x"};
	struct mqfs_message *message = *state;

	mqfs_message_set_string(&message->user_id, "guest");
	message->timestamp = 1700000000;
	for (size_t i = 0; i < sizeof(owned) / sizeof(owned[0]); i++) {
		assert_int_equal(set(message, owned[i], "1"), -EPERM);
		assert_int_equal(mqfs_property_remove(message, owned[i]), -EPERM);
	}
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		assert_int_equal(set(message, none[i], "1"), -ENODATA);
		assert_int_equal(mqfs_property_remove(message, none[i]), -ENODATA);
		assert_int_equal(get_fails(message, none[i]), -ENODATA);
	}
	check_get(message, "user-id", "guest");
	check_get(message, "timestamp", "1700000000");
}

static void guards_header_names(void **state)
{
	static const char *const bad[] = {"header.",      "header.x-death", "header.x-",  "header.mqfs-attempts",
	                                  "header.mqfs-", "header.CC",      "header.BCC", "header.a\nb",
	                                  "header.\xff"};
	struct mqfs_message *message = *state;
	char name[160] = "header.";

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(set(message, bad[i], "1"), -EINVAL);
	assert_int_equal(message->headers.count, 0);
	memset(name + 7, 'n', 129);
	assert_int_equal(set(message, name, "1"), -EINVAL);
	name[7 + 128] = '\0';
	assert_int_equal(set(message, name, "1"), 0);
	assert_int_equal(set(message, "header.xylophone", "1"), 0);
	assert_int_equal(set(message, "header.mqfs", "1"), 0);

	mqfs_headers_set_string(&message->headers, "mqfs-copy", "id");
	assert_int_equal(mqfs_property_remove(message, "header.mqfs-copy"), -EPERM);
	check_get(message, "header.mqfs-copy", "id"); /* but it is readable */
}

static void bounds_header_values(void **state)
{
	struct mqfs_message *message = *state;
	static char text[4097];

	memset(text, 'v', sizeof(text));
	assert_int_equal(mqfs_property_set(message, "header.a", text, 4097), -EINVAL);
	assert_int_equal(mqfs_property_set(message, "header.a", text, 4096), 0);
	assert_int_equal(set(message, "header.a", "\xff"), -EINVAL);
	assert_int_equal(mqfs_property_set(message, "header.a", "a\0b", 3), -EINVAL);
	assert_int_equal(mqfs_headers_get(&message->headers, "a")->bytes.bytes, 4096);
	assert_int_equal(set(message, "header.a", "two\nlines\t{}"), 0);
	check_get(message, "header.a", "two\nlines\t{}");
}

static void bounds_all_headers(void **state)
{
	struct mqfs_message *message = *state;
	static char text[4096];
	char name[32];
	int n = 0, r;

	memset(text, 'v', sizeof(text));
	do {
		snprintf(name, sizeof(name), "header.%02d", n++);
		r = mqfs_property_set(message, name, text, sizeof(text));
	} while (r == 0);
	assert_int_equal(r, -E2BIG);
	assert_int_equal(message->headers.count, 7);
	/* 4 + 7 * (1 + 2 + 1 + 4 + 4096) = 28732; a last one of 1 + 2 + 1 + 4 + 4028 fills it */
	assert_int_equal(mqfs_property_set(message, "header.xx", text, 4029), -E2BIG);
	assert_int_equal(mqfs_property_set(message, "header.xx", text, 4028), 0);
	assert_int_equal(mqfs_table_encoded_bytes(&message->headers), 32768);
	/* replacing counts the difference only */
	assert_int_equal(mqfs_property_set(message, "header.00", text, 4096), 0);
	assert_int_equal(mqfs_property_set(message, "header.xx", text, 4029), -E2BIG);
	assert_int_equal(mqfs_property_set(message, "header.xx", text, 10), 0);
}

static void reads_headers_of_every_kind(void **state)
{
	struct mqfs_message *message = *state;
	struct mqfs_table *headers = &message->headers, inner = {0};
	struct mqfs_array list = {0};
	char *text;
	size_t bytes;

	unit_push(&list, unit_text("a"));
	unit_push(&list, (struct mqfs_value){.kind = 'I', .integer = 1});
	unit_add(&inner, "k", (struct mqfs_value){.kind = 't', .boolean = false});
	unit_add(headers, "A", (struct mqfs_value){.kind = 'A', .array = list});
	unit_add(headers, "F", (struct mqfs_value){.kind = 'F', .table = inner});
	unit_add(headers, "l", (struct mqfs_value){.kind = 'l', .integer = INT64_MIN});
	unit_add(headers, "L", (struct mqfs_value){.kind = 'L', .integer = -1});
	unit_add(headers, "T", (struct mqfs_value){.kind = 'T', .integer = 1700000000});
	unit_add(headers, "t", (struct mqfs_value){.kind = 't', .boolean = true});
	unit_add(headers, "d", (struct mqfs_value){.kind = 'd', .real = 1.5});
	unit_add(headers, "D", (struct mqfs_value){.kind = 'D', .decimal = {.scale = 2, .value = 314}});
	unit_add(headers, "V", (struct mqfs_value){.kind = 'V'});
	mqfs_headers_set_bytes(headers, "S", "a\0\xff", 3);
	check_get(message, "header.A", "[\"a\",1]");
	check_get(message, "header.F", "{\"k\":false}");
	check_get(message, "header.l", "-9223372036854775808");
	check_get(message, "header.L", "18446744073709551615");
	check_get(message, "header.T", "1700000000");
	check_get(message, "header.t", "true");
	check_get(message, "header.d", "1.5");
	check_get(message, "header.D", "3.14");
	check_get(message, "header.V", "");
	assert_int_equal(mqfs_property_get(message, "header.S", &text, &bytes), 0);
	assert_int_equal(bytes, 3);
	assert_memory_equal(text, "a\0\xff", 4);
	free(text);
}

static char listed[4096];

static void list(const char *name, void *arg)
{
	assert_ptr_equal(arg, listed);
	strcat(listed, name);
	strcat(listed, "\n");
}

static void lists_what_is_there(void **state)
{
	struct mqfs_message *message = *state;
	char name[256] = "";

	listed[0] = '\0';
	mqfs_property_each(message, list, listed);
	assert_string_equal(listed, "");
	set(message, "priority", "3");
	set(message, "type", "t");
	set(message, "header.a", "1");
	message->timestamp = 5;
	mqfs_message_set_string(&message->user_id, "guest");
	unit_add(&message->headers, "", unit_text("nameless"));
	memset(name, 'n', 201);
	unit_add(&message->headers, name, unit_text("too long"));
	unit_add(&message->headers, "x-death", (struct mqfs_value){.kind = 'A'});
	mqfs_property_each(message, list, listed);
	assert_string_equal(listed, "priority\ntimestamp\ntype\nuser-id\nheader.a\nheader.x-death\n");
	listed[0] = '\0';
	name[200] = '\0';
	unit_add(&message->headers, name, unit_text("just fits"));
	mqfs_property_each(message, list, listed);
	assert_non_null(strstr(listed, name));
}

static void guesses_content_types(void **state)
{
	(void)state;
	assert_string_equal(mqfs_property_guess_content_type("a.json"), "application/json");
	assert_string_equal(mqfs_property_guess_content_type("A.JPG"), "image/jpeg");
	assert_string_equal(mqfs_property_guess_content_type("x.tar.gz"), "application/gzip");
	assert_string_equal(mqfs_property_guess_content_type("film.mp4"), "video/mp4");
	assert_string_equal(mqfs_property_guess_content_type(".json"), "application/json");
	assert_string_equal(mqfs_property_guess_content_type("json"), "application/octet-stream");
	assert_string_equal(mqfs_property_guess_content_type("a."), "application/octet-stream");
	assert_string_equal(mqfs_property_guess_content_type(""), "application/octet-stream");
	assert_string_equal(mqfs_property_guess_content_type("a.jsonx"), "application/octet-stream");
	assert_string_equal(mqfs_property_guess_content_type("a.b\xff"), "application/octet-stream");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(sets_gets_and_removes),
	    TEST(takes_priorities),
	    TEST(takes_expirations),
	    TEST(refuses_bad_text),
	    TEST(refuses_what_is_not_theirs),
	    TEST(guards_header_names),
	    TEST(bounds_header_values),
	    TEST(bounds_all_headers),
	    TEST(reads_headers_of_every_kind),
	    TEST(lists_what_is_there),
	    cmocka_unit_test(guesses_content_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
