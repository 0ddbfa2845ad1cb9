/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* What is published is what is delivered. */

static struct mqfs_delivery *through(const char *queue, struct mqfs_message *message)
{
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), 0);
	return intake_next(intake_new(backend, queue, 1));
}

static void bodies_of(size_t bytes)
{
	const char *queue = make_queue();
	struct mqfs_message *message = mqfs_message_new();
	unsigned char *data = malloc(bytes + 1);
	struct mqfs_delivery *delivery;

	for (size_t i = 0; i < bytes; i++)
		data[i] = (unsigned char)(i * 131 + i / 256);
	assert_int_equal(mqfs_body_write(message->body, 0, data, bytes), 0);
	delivery = through(queue, message);
	assert_int_equal(delivery->message->body->bytes, bytes);
	if (bytes > 0)
		assert_memory_equal(delivery->message->body->data, data, bytes);
	free(data);
	assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
}

static void body_empty(void **state)
{
	(void)state;
	bodies_of(0);
}

static void body_of_one_byte(void **state)
{
	(void)state;
	bodies_of(1);
}

static void body_of_a_frame(void **state)
{
	(void)state;
	bodies_of(131072 - 8);
	bodies_of(131072 - 8 + 1);
}

static void body_of_the_maximum(void **state)
{
	(void)state;
	bodies_of((size_t)settings.max_body_bytes);
}

static void properties(void **state)
{
	const char *queue = make_queue();
	struct mqfs_message *message = message_with("p", 3, "id-1"), *found;

	(void)state;
	mqfs_message_set_string(&message->content_type, "application/json");
	mqfs_message_set_string(&message->content_encoding, "gzip");
	mqfs_message_set_string(&message->correlation_id, "corr");
	mqfs_message_set_string(&message->reply_to, "answers");
	mqfs_message_set_string(&message->expiration, "60000");
	mqfs_message_set_string(&message->type, "task");
	mqfs_message_set_string(&message->app_id, "suite");
	message->timestamp = 1700000000;
	message->delivery_mode = 2;
	found = through(queue, message)->message;
	assert_int_equal(found->priority, 3);
	assert_string_equal(found->message_id, "id-1");
	assert_string_equal(found->content_type, "application/json");
	assert_string_equal(found->content_encoding, "gzip");
	assert_string_equal(found->correlation_id, "corr");
	assert_string_equal(found->reply_to, "answers");
	assert_string_equal(found->expiration, "60000");
	assert_string_equal(found->type, "task");
	assert_string_equal(found->app_id, "suite");
	assert_int_equal(found->timestamp, 1700000000);
	assert_int_equal(found->delivery_mode, 2);
	assert_null(found->user_id);
}

static void absent_properties_stay_absent(void **state)
{
	struct mqfs_message *found = through(make_queue(), message_new("bare"))->message;

	(void)state;
	assert_int_equal(found->priority, -1);
	assert_int_equal(found->timestamp, 0);
	assert_null(found->message_id);
	assert_null(found->content_type);
	assert_null(found->expiration);
	assert_null(found->correlation_id);
	assert_int_equal(found->headers.count, 0);
}

static struct mqfs_value text(char kind, const char *data, size_t bytes)
{
	struct mqfs_value value = {.kind = kind, .bytes = {.data = malloc(bytes + 1), .bytes = bytes}};

	memcpy(value.bytes.data, data, bytes);
	value.bytes.data[bytes] = '\0';
	return value;
}

static void add(struct mqfs_message *message, const char *name, struct mqfs_value value)
{
	assert_int_equal(mqfs_headers_set_value(&message->headers, name, &value), 0);
	mqfs_value_clear(&value);
}

static void equal(const char *name, const struct mqfs_value *a, const struct mqfs_value *b)
{
	if (!b || a->kind != b->kind)
		fail_msg("header %s of kind %c came as %c", name, a->kind, b ? b->kind : '-');
	switch (a->kind) {
	case 'V':
		return;
	case 't':
		assert_int_equal(a->boolean, b->boolean);
		return;
	case 'f':
	case 'd':
		assert_true(a->real == b->real);
		return;
	case 'D':
		assert_int_equal(a->decimal.scale, b->decimal.scale);
		assert_int_equal(a->decimal.value, b->decimal.value);
		return;
	case 'S':
	case 'x':
		assert_int_equal(a->bytes.bytes, b->bytes.bytes);
		assert_memory_equal(a->bytes.data, b->bytes.data, a->bytes.bytes);
		return;
	case 'A':
		assert_int_equal(a->array.count, b->array.count);
		for (size_t i = 0; i < a->array.count; i++)
			equal(name, &a->array.values[i], &b->array.values[i]);
		return;
	case 'F':
		assert_int_equal(a->table.count, b->table.count);
		for (size_t i = 0; i < a->table.count; i++)
			equal(name, &a->table.fields[i].value, mqfs_headers_get(&b->table, a->table.fields[i].name));
		return;
	default:
		if (a->integer != b->integer)
			fail_msg("header %s: %lld came as %lld", name, (long long)a->integer, (long long)b->integer);
	}
}

static void headers_of_all_kinds(void **state)
{
	struct mqfs_message *message = message_new("h"), *sent, *found;
	struct mqfs_value list = {.kind = 'A'}, table = {.kind = 'F'};
	struct mqfs_value number = {.kind = 'I', .integer = -7};

	(void)state;
	add(message, "bool", (struct mqfs_value){.kind = 't', .boolean = true});
	add(message, "int8", (struct mqfs_value){.kind = 'b', .integer = -128});
	add(message, "int16", (struct mqfs_value){.kind = 's', .integer = -32768});
	add(message, "int32", (struct mqfs_value){.kind = 'I', .integer = INT32_MIN});
	add(message, "int64", (struct mqfs_value){.kind = 'l', .integer = INT64_MIN});
	add(message, "time", (struct mqfs_value){.kind = 'T', .integer = 1700000000});
	add(message, "float", (struct mqfs_value){.kind = 'f', .real = 0.5});
	add(message, "double", (struct mqfs_value){.kind = 'd', .real = 1e300});
	add(message, "decimal", (struct mqfs_value){.kind = 'D', .decimal = {.scale = 2, .value = 12345}});
	add(message, "void", (struct mqfs_value){.kind = 'V'});
	add(message, "bytes", text('x', "\0\xFF\x01", 3));
	add(message, "text",
	    text('S',
	         "Gr\xC3\xBC\xC3\x9F"
	         "e",
	         7));
	add(message, "empty", text('S', "", 0));
	list.array.values = calloc(2, sizeof(struct mqfs_value));
	list.array.count = 2;
	list.array.values[0] = number;
	list.array.values[1] = text('S', "second", 6);
	table.table.fields = NULL;
	assert_int_equal(mqfs_headers_set_value(&table.table, "list", &list), 0);
	assert_int_equal(mqfs_headers_set_string(&table.table, "name", "inner"), 0);
	mqfs_value_clear(&list);
	add(message, "table", table);

	sent = mqfs_message_copy(message);
	found = through(make_queue(), message)->message;
	for (size_t i = 0; i < sent->headers.count; i++) {
		const char *name = sent->headers.fields[i].name;

		equal(name, &sent->headers.fields[i].value, mqfs_headers_get(&found->headers, name));
	}
	assert_int_equal(found->headers.count, sent->headers.count);
	mqfs_message_free(sent);
}

static void headers_survive_a_retry(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_message *message = message_with("h", 4, "kept-id");

	(void)state;
	mqfs_message_set_string(&message->correlation_id, "corr");
	mqfs_headers_set_string(&message->headers, "foreign", "kept");
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), 0);
	assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_RETRY), 0);
	message = claim(reader)->message;
	assert_string_equal(message->message_id, "kept-id");
	assert_string_equal(message->correlation_id, "corr");
	assert_int_equal(message->priority, 4);
	assert_string_equal(mqfs_headers_string(&message->headers, "foreign"), "kept");
}

int test_messages(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(body_empty),           contract_test(body_of_one_byte),
	    contract_test(body_of_a_frame),      contract_test(body_of_the_maximum),
	    contract_test(properties),           contract_test(absent_properties_stay_absent),
	    contract_test(headers_of_all_kinds), contract_test(headers_survive_a_retry),
	};

	return cmocka_run_group_tests_name("messages", tests, NULL, NULL);
}
