// SPDX-License-Identifier: MIT
// Words: tokenizers and what they make of text. Needs nlohmann_json and PCRE2, the component dsv3::text.
#pragma once

#include <dsv3/text/bpe_trainer.hpp>
#include <dsv3/text/byte_alphabet.hpp>
#include <dsv3/text/byte_tokenizer.hpp>
#include <dsv3/text/detokenizer.hpp>
#include <dsv3/text/document_encoder.hpp>
#include <dsv3/text/encoded_documents.hpp>
#include <dsv3/text/fill_in_middle.hpp>
#include <dsv3/text/packing.hpp>
#include <dsv3/text/pattern.hpp>
#include <dsv3/text/stored_tokenizer.hpp>
#include <dsv3/text/token_documents.hpp>
#include <dsv3/text/token_file.hpp>
#include <dsv3/text/token_file_writer.hpp>
#include <dsv3/text/tokenizer.hpp>
#include <dsv3/text/tokenizer_definition.hpp>
#include <dsv3/text/tokenizer_file.hpp>
#include <dsv3/text/utf8.hpp>
