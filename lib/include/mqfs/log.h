/* SPDX-License-Identifier: MIT */
#ifndef MQFS_LOG_H
#define MQFS_LOG_H

/*
 * One line to standard error per call (systemd's journal reads the "<N>" priority prefix when
 * standard error is the journal's). Thread-safe; may block on standard error only. Never log bodies,
 * header values or credentials.
 */
enum mqfs_log_level { MQFS_LOG_ERROR = 3, MQFS_LOG_WARNING = 4, MQFS_LOG_INFO = 6, MQFS_LOG_DEBUG = 7 };

/* From now on to syslog(3), for a daemon without a standard error. */
void mqfs_log_to_syslog(void);

void mqfs_log_set_level(enum mqfs_log_level level);
enum mqfs_log_level mqfs_log_level(void);
void mqfs_log(enum mqfs_log_level level, const char *topic, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Each file defines LOG_TOPIC before it includes this. */
#define log_error(...) mqfs_log(MQFS_LOG_ERROR, LOG_TOPIC, __VA_ARGS__)
#define log_warning(...) mqfs_log(MQFS_LOG_WARNING, LOG_TOPIC, __VA_ARGS__)
#define log_info(...) mqfs_log(MQFS_LOG_INFO, LOG_TOPIC, __VA_ARGS__)
#define log_debug(...)                                                                                                 \
	do {                                                                                                           \
		if (mqfs_log_level() >= MQFS_LOG_DEBUG)                                                                \
			mqfs_log(MQFS_LOG_DEBUG, LOG_TOPIC, __VA_ARGS__);                                              \
	} while (0)

#endif
