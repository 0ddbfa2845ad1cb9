/* SPDX-License-Identifier: MIT */
#include "memory_fixture.h"
#include "unit.h"

#include <mqfs/delivery.h>
#include <mqfs/failure.h>
#include <mqfs/meta.h>
#include <mqfs/property.h>

#include <amqp.h>
#include <cjson/cJSON.h>
#include <errno.h>

#include "amqp/properties.h"
#include "amqp/url.h"
#include "db/codec.h"
#include "json.h"

/*
 * What happens when memory runs out: each case is run again and again while one allocation after the
 * other fails, until none does. A failure has to be reported, and nothing may be leaked or freed twice.
 */

static struct mqfs_message *loaded;

static int setup(void **state)
{
	struct mqfs_table inner = {0};
	struct mqfs_array cc = {0};

	(void)state;
	cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = __wrap_malloc, .free_fn = __wrap_free});
	loaded = unit_message("body");
	mqfs_message_set_string(&loaded->expiration, "1000");
	mqfs_message_set_string(&loaded->user_id, "guest");
	mqfs_message_set_string(&loaded->type, "t");
	unit_push(&cc, unit_text("copy"));
	unit_push(&cc, unit_text("to"));
	unit_add(&inner, "reason", unit_text("rejected"));
	unit_add(&inner, "list", (struct mqfs_value){.kind = 'A', .array = cc});
	cc = (struct mqfs_array){0};
	unit_push(&cc, (struct mqfs_value){.kind = 'F', .table = inner});
	unit_add(&loaded->headers, "x-death", (struct mqfs_value){.kind = 'A', .array = cc});
	cc = (struct mqfs_array){0};
	unit_push(&cc, unit_text("copy"));
	unit_add(&loaded->headers, "CC", (struct mqfs_value){.kind = 'A', .array = cc});
	unit_add(&loaded->headers, "huge", (struct mqfs_value){.kind = 'l', .integer = INT64_MAX});
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mqfs_message_free(loaded);
	cJSON_InitHooks(NULL);
	return 0;
}

static bool drop(struct mqfs_message *message)
{
	mqfs_message_free(message);
	return message != NULL;
}

static bool run_copy(void)
{
	return drop(mqfs_message_copy(loaded));
}

static const struct mqfs_failed_attempt attempt = {
    .attempts = 1, .now_us = 1, .next_at_us = 2, .error = "e", .dead_reason = "r", .host = "h", .queue = "q"};

static bool run_retry(void)
{
	return drop(mqfs_copy_for_retry(loaded, &attempt));
}

static bool run_dead(void)
{
	return drop(mqfs_copy_for_dead(loaded, &attempt));
}

static bool run_release(void)
{
	return drop(mqfs_copy_for_release(loaded, 0));
}

static bool run_grant(void)
{
	return drop(mqfs_copy_for_grant(loaded, 1));
}

static bool run_afresh(void)
{
	return drop(mqfs_copy_afresh(loaded, 1, 1));
}

static void copies(void **state)
{
	(void)state;
	exhaust_memory(run_copy);
	exhaust_memory(run_retry);
	exhaust_memory(run_dead);
	exhaust_memory(run_release);
	exhaust_memory(run_grant);
	exhaust_memory(run_afresh);
}

static bool run_stamp(void)
{
	struct mqfs_message *message = mqfs_message_new();
	bool stamped = message && mqfs_message_stamp(message, "a.txt", 1) == 0;

	mqfs_message_free(message);
	return stamped;
}

static bool run_body(void)
{
	struct mqfs_body *body = mqfs_body_new();
	bool written = body && mqfs_body_write(body, 0, "12345", 5) == 0 && mqfs_body_truncate(body, 10000) == 0;

	mqfs_body_unref(body);
	return written;
}

static void new_messages(void **state)
{
	(void)state;
	exhaust_memory(run_stamp);
	exhaust_memory(run_body);
}

/* A set that fails leaves what was there. */
static bool run_set(void)
{
	struct mqfs_message *message = mqfs_message_copy(loaded);
	bool set;

	if (!message)
		return false;
	set = mqfs_property_set(message, "type", "new", 3) == 0;
	assert_string_equal(message->type, set ? "new" : "t");
	if (set) {
		set = mqfs_property_set(message, "header.huge", "small", 5) == 0;
		assert_int_equal(mqfs_headers_get(&message->headers, "huge")->kind, set ? 'S' : 'l');
	}
	if (set) {
		set = mqfs_property_set(message, "header.new", "value", 5) == 0;
		assert_int_equal(mqfs_headers_get(&message->headers, "new") != NULL, set);
	}
	mqfs_message_free(message);
	return set;
}

static bool run_get(void)
{
	static const char *const names[] = {"type", "header.CC", "header.huge", "header.x-death"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char *text;
		size_t bytes;

		if (mqfs_property_get(loaded, names[i], &text, &bytes) < 0)
			return false;
		__wrap_free(text);
	}
	return true;
}

static void properties(void **state)
{
	(void)state;
	exhaust_memory(run_set);
	exhaust_memory(run_get);
}

static bool run_meta(void)
{
	struct mqfs_settings settings = {0};
	struct mqfs_message *message = mqfs_message_copy(loaded);
	struct mqfs_delivery *delivery = message ? mqfs_delivery_new(message, "jobs") : NULL;
	char *text;

	if (!delivery)
		return drop(message) && false; /* it stays the caller's */
	text = mqfs_meta_json(delivery, &settings);
	__wrap_free(text);
	mqfs_delivery_unref(delivery);
	return text != NULL;
}

static void meta(void **state)
{
	(void)state;
	exhaust_memory(run_meta);
}

static struct mqfs_table *headers(void)
{
	return &loaded->headers;
}

/* A set that fails leaves the table as it was. */
static bool run_headers(void)
{
	struct mqfs_value copy;
	struct mqfs_table table = {0};
	bool set =
	    mqfs_headers_set_string(&table, "name", "value") == 0 && mqfs_headers_set_integer(&table, "n", 1) == 0;

	if (set && mqfs_headers_set_string(&table, "name", "another") < 0) {
		assert_string_equal(mqfs_headers_string(&table, "name"), "value");
		set = false;
	}
	if (set && mqfs_headers_set_value(&table, "name", mqfs_headers_get(headers(), "x-death")) < 0) {
		assert_string_equal(mqfs_headers_string(&table, "name"), "another");
		set = false;
	}
	if (set)
		set = mqfs_value_copy(mqfs_headers_get(headers(), "x-death"), &copy) == 0;
	if (set)
		mqfs_value_clear(&copy);
	mqfs_table_clear(&table);
	return set;
}

static void tables(void **state)
{
	(void)state;
	exhaust_memory(run_headers);
}

static bool run_json(void)
{
	cJSON *object = cJSON_CreateObject();
	bool put = object && json_put(object, "death", json_from_value(mqfs_headers_get(headers(), "x-death"))) == 0 &&
	           json_put(object, "text", json_from_text("\xff\x01", 2)) == 0 &&
	           json_put(object, "huge", json_from_integer(INT64_MAX)) == 0;

	cJSON_Delete(object);
	return put;
}

static void json(void **state)
{
	(void)state;
	exhaust_memory(run_json);
}

/* As the stores have it. */
static bool run_codec(void)
{
	struct codec_buffer head = {0};
	struct mqfs_message *message = NULL;
	bool decoded =
	    codec_encode(loaded, &head) == 0 && codec_decode(head.data, head.bytes, "body", 4, &message) == 0;

	free(head.data);
	mqfs_message_free(message);
	return decoded;
}

static void codec(void **state)
{
	(void)state;
	exhaust_memory(run_codec);
}

static const amqp_basic_properties_t *received;

static bool run_read(void)
{
	struct mqfs_message *message = mqfs_message_new();
	bool read = message && properties_read(received, message) == 0;

	mqfs_message_free(message);
	return read;
}

/* librabbitmq's own memory does not run out here: it is another program's. */
static void amqp_properties(void **state)
{
	amqp_basic_properties_t properties;
	amqp_pool_t pool;

	(void)state;
	init_amqp_pool(&pool, 4096);
	assert_int_equal(properties_write(loaded, &pool, &properties), 0);
	received = &properties;
	exhaust_memory(run_read);
	empty_amqp_pool(&pool);
}

static bool run_url(void)
{
	struct url *url = NULL;
	const char *error = NULL;
	int r = url_parse("amqp://user:p%40ss@one,two:5673,[::1]/v%2Fhost", &url, &error);

	assert_true(r == 0 || r == -ENOMEM);
	url_free(url);
	return r == 0;
}

static void amqp_url(void **state)
{
	(void)state;
	exhaust_memory(run_url);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(tables, setup, teardown),
	    cmocka_unit_test_setup_teardown(json, setup, teardown),
	    cmocka_unit_test_setup_teardown(codec, setup, teardown),
	    cmocka_unit_test_setup_teardown(amqp_properties, setup, teardown),
	    cmocka_unit_test_setup_teardown(amqp_url, setup, teardown),
	    cmocka_unit_test_setup_teardown(copies, setup, teardown),
	    cmocka_unit_test_setup_teardown(new_messages, setup, teardown),
	    cmocka_unit_test_setup_teardown(properties, setup, teardown),
	    cmocka_unit_test_setup_teardown(meta, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
