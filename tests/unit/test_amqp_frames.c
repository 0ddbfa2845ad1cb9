/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

#include "amqp/frames.h"

/* What was told, as a line of text, and the last message. */
static char told[1024];
static struct mqfs_message *message;
static struct frames frames;
static int peer; /* the other end of the connection */

__attribute__((format(printf, 1, 2))) static void tell(const char *format, ...)
{
	size_t used = strlen(told);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(told + used, sizeof(told) - used, format, arguments);
	va_end(arguments);
}

static void on_content(void *arg, struct frame_content *content)
{
	(void)arg;
	tell("content %d:%d tag %d%s to %s;", content->kind, content->channel, (int)content->tag,
	     content->redelivered ? " again" : "", content->routing_key);
	mqfs_message_free(message);
	message = content->message;
	content->message = NULL;
}

static void on_acked(void *arg, amqp_channel_t channel, uint64_t tag, bool multiple, bool positive)
{
	(void)arg;
	tell("%s %d:%d%s;", positive ? "ack" : "nack", channel, (int)tag, multiple ? "+" : "");
}

static void on_empty(void *arg, amqp_channel_t channel)
{
	(void)arg;
	tell("empty %d;", channel);
}

static void on_cancelled(void *arg, amqp_channel_t channel, const char *consumer_tag)
{
	(void)arg;
	tell("cancelled %d %s;", channel, consumer_tag);
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	(void)arg;
	tell("closed %d: %d %s;", channel, code, text);
}

static void on_blocked(void *arg, const char *reason)
{
	(void)arg;
	tell("%s;", reason ? reason : "unblocked");
}

static const struct frame_events events = {
    .content = on_content,
    .acked = on_acked,
    .empty = on_empty,
    .cancelled = on_cancelled,
    .channel_closed = on_channel_closed,
    .blocked = on_blocked,
};

static int setup(void **state)
{
	int files[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, files), 0);
	told[0] = '\0';
	frames_init(&frames, &events, NULL);
	frames.state = amqp_new_connection();
	amqp_tcp_socket_set_sockfd(amqp_tcp_socket_new(frames.state), files[0]);
	peer = files[1];
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	frames_reset(&frames);
	amqp_destroy_connection(frames.state);
	close(peer);
	message = mqfs_message_free(message);
	return 0;
}

static amqp_bytes_t text(const char *text)
{
	return amqp_cstring_bytes(text);
}

static int method(amqp_channel_t channel, amqp_method_number_t id, void *decoded)
{
	amqp_frame_t frame = {
	    .frame_type = AMQP_FRAME_METHOD, .channel = channel, .payload.method = {.id = id, .decoded = decoded}};

	return frames_dispatch(&frames, &frame);
}

static int header(amqp_channel_t channel, uint64_t bytes)
{
	static amqp_basic_properties_t properties = {._flags = AMQP_BASIC_PRIORITY_FLAG, .priority = 9};
	amqp_frame_t frame = {.frame_type = AMQP_FRAME_HEADER, .channel = channel};

	frame.payload.properties.class_id = AMQP_BASIC_CLASS;
	frame.payload.properties.body_size = bytes;
	frame.payload.properties.decoded = &properties;
	return frames_dispatch(&frames, &frame);
}

static int body(amqp_channel_t channel, const char *bytes)
{
	amqp_frame_t frame = {
	    .frame_type = AMQP_FRAME_BODY, .channel = channel, .payload.body_fragment = amqp_cstring_bytes(bytes)};

	return frames_dispatch(&frames, &frame);
}

static int deliver(amqp_channel_t channel, uint64_t tag)
{
	amqp_basic_deliver_t decoded = {.consumer_tag = text("mqfs-1"),
	                                .delivery_tag = tag,
	                                .redelivered = tag % 2,
	                                .exchange = text(""),
	                                .routing_key = text("jobs")};

	return method(channel, AMQP_BASIC_DELIVER_METHOD, &decoded);
}

static void a_delivery_is_put_together(void **state)
{
	(void)state;
	assert_int_equal(deliver(3, 7), 0);
	assert_int_equal(header(3, 6), 0);
	assert_int_equal(body(3, "abc"), 0);
	assert_string_equal(told, "");
	assert_int_equal(body(3, "def"), 0);
	assert_string_equal(told, "content 0:3 tag 7 again to jobs;");
	assert_int_equal(message->body->bytes, 6);
	assert_memory_equal(message->body->data, "abcdef", 6);
	assert_int_equal(message->priority, 9);
}

static void an_empty_body_is_complete_at_once(void **state)
{
	(void)state;
	deliver(1, 2);
	assert_int_equal(header(1, 0), 0);
	assert_string_equal(told, "content 0:1 tag 2 to jobs;");
	assert_int_equal(message->body->bytes, 0);
}

static void channels_are_told_apart(void **state)
{
	(void)state;
	deliver(1, 1);
	deliver(2, 2);
	header(2, 1);
	header(1, 1);
	body(1, "a");
	assert_string_equal(told, "content 0:1 tag 1 again to jobs;");
	body(2, "b");
	assert_memory_equal(message->body->data, "b", 1);
}

static void a_return_comes_without_its_body(void **state)
{
	amqp_basic_return_t returned = {.reply_code = 312, .exchange = text(""), .routing_key = text("gone")};

	(void)state;
	assert_int_equal(method(1, AMQP_BASIC_RETURN_METHOD, &returned), 0);
	header(1, 3);
	assert_int_equal(body(1, "abc"), 0);
	assert_string_equal(told, "content 2:1 tag 0 to gone;");
	assert_int_equal(message->body->bytes, 0);
}

static void gets_and_their_end(void **state)
{
	amqp_basic_get_ok_t got = {.delivery_tag = 4, .exchange = text(""), .routing_key = text("jobs.dead")};
	amqp_basic_get_empty_t empty = {0};

	(void)state;
	assert_int_equal(method(5, AMQP_BASIC_GET_OK_METHOD, &got), 0);
	header(5, 0);
	assert_int_equal(method(5, AMQP_BASIC_GET_EMPTY_METHOD, &empty), 0);
	assert_string_equal(told, "content 1:5 tag 4 to jobs.dead;empty 5;");
}

static void confirms(void **state)
{
	amqp_basic_ack_t ack = {.delivery_tag = 9, .multiple = 1};
	amqp_basic_nack_t nack = {.delivery_tag = 10};

	(void)state;
	assert_int_equal(method(1, AMQP_BASIC_ACK_METHOD, &ack), 0);
	assert_int_equal(method(1, AMQP_BASIC_NACK_METHOD, &nack), 0);
	assert_string_equal(told, "ack 1:9+;nack 1:10;");
}

static void a_cancel_names_its_consumer(void **state)
{
	amqp_basic_cancel_t cancel = {.consumer_tag = text("mqfs-\n12345678901234567890123456789")};

	(void)state;
	assert_int_equal(method(2, AMQP_BASIC_CANCEL_METHOD, &cancel), 0);
	assert_string_equal(told, "cancelled 2 mqfs-?1234567890123456789012345;");
}

static void a_closed_channel_is_answered(void **state)
{
	amqp_channel_close_t close = {.reply_code = 406, .reply_text = text("PRECONDITION_FAILED")};
	uint8_t answer[64];

	(void)state;
	deliver(4, 1);
	assert_int_equal(method(4, AMQP_CHANNEL_CLOSE_METHOD, &close), 0);
	assert_string_equal(told, "closed 4: 406 PRECONDITION_FAILED;");
	assert_int_equal(recv(peer, answer, sizeof(answer), 0), 12);
	assert_memory_equal(answer, "\x01\x00\x04\x00\x00\x00\x04\x00\x14\x00\x29\xCE", 12);
	/* What was half read is forgotten. */
	assert_int_equal(deliver(4, 2), 0);
}

static void a_closed_connection_ends_it(void **state)
{
	amqp_connection_close_t close = {.reply_code = 320, .reply_text = text("CONNECTION_FORCED - \x1b[2J")};

	(void)state;
	assert_int_equal(method(0, AMQP_CONNECTION_CLOSE_METHOD, &close), -ECONNRESET);
	assert_non_null(strstr(frames.error, "320 CONNECTION_FORCED - ?[2J"));
}

static void blocked_and_unblocked(void **state)
{
	amqp_connection_blocked_t blocked = {.reason = text("low on memory")};
	amqp_connection_unblocked_t unblocked = {0};

	(void)state;
	assert_int_equal(method(0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked), 0);
	assert_int_equal(method(0, AMQP_CONNECTION_UNBLOCKED_METHOD, &unblocked), 0);
	assert_string_equal(told, "low on memory;unblocked;");
}

static void what_is_out_of_order_ends_the_connection(void **state)
{
	(void)state;
	assert_int_equal(header(1, 1), -EPROTO);
	assert_int_equal(body(1, "a"), -EPROTO);
	deliver(1, 1);
	assert_int_equal(deliver(1, 2), -EPROTO);
	assert_int_equal(body(1, "a"), -EPROTO);
	assert_int_equal(header(1, 2), 0);
	assert_int_equal(header(1, 2), -EPROTO);
	assert_int_equal(body(1, "abc"), -EPROTO);
	deliver(2, 1);
	assert_int_equal(header(2, 1ull << 40), -EPROTO);
	assert_string_equal(told, "");
}

static void what_nobody_asked_for_ends_the_connection(void **state)
{
	static const struct frame_events none = {0};
	amqp_basic_ack_t ack = {.delivery_tag = 1};
	amqp_basic_get_empty_t empty = {0};
	amqp_basic_cancel_t cancel = {.consumer_tag = text("")};
	amqp_channel_close_t close = {.reply_code = 404, .reply_text = text("")};
	amqp_queue_delete_ok_t ok = {0};

	(void)state;
	frames.events = &none;
	assert_int_equal(deliver(1, 1), -EPROTO);
	assert_int_equal(method(1, AMQP_BASIC_ACK_METHOD, &ack), -EPROTO);
	assert_int_equal(method(1, AMQP_BASIC_GET_EMPTY_METHOD, &empty), -EPROTO);
	assert_int_equal(method(1, AMQP_BASIC_CANCEL_METHOD, &cancel), -EPROTO);
	assert_int_equal(method(1, AMQP_CHANNEL_CLOSE_METHOD, &close), -EPROTO);
	assert_int_equal(method(1, AMQP_QUEUE_DELETE_OK_METHOD, &ok), -EPROTO);
}

#define frame_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

/* Two sides that close a channel at once each answer the other. */
static void a_late_close_ok_is_nothing(void **state)
{
	amqp_channel_close_ok_t ok = {0};

	(void)state;
	assert_int_equal(deliver(4, 1), 0);
	assert_int_equal(method(3, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok), 0);
	assert_int_equal(header(4, 0), 0);
	assert_string_equal(told, "content 0:4 tag 1 again to jobs;");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    frame_test(a_delivery_is_put_together),
	    frame_test(an_empty_body_is_complete_at_once),
	    frame_test(channels_are_told_apart),
	    frame_test(a_return_comes_without_its_body),
	    frame_test(gets_and_their_end),
	    frame_test(confirms),
	    frame_test(a_cancel_names_its_consumer),
	    frame_test(a_closed_channel_is_answered),
	    frame_test(a_late_close_ok_is_nothing),
	    frame_test(a_closed_connection_ends_it),
	    frame_test(blocked_and_unblocked),
	    frame_test(what_is_out_of_order_ends_the_connection),
	    frame_test(what_nobody_asked_for_ends_the_connection),
	};

	return cmocka_run_group_tests_name("amqp frames", tests, NULL, NULL);
}
