# Completion of logd for fish. The words come from the installed program's own `logd help`, so they are always its own.
function __logd_words
    set -l words (commandline -opc)
    set -l program $words[1]
    set -l cur (commandline -ct)
    if string match -q -- '-*' $cur
        $program help $words[2] 2>/dev/null | grep -Eo '^ +(-[a-z], )?--[a-z-]+' | awk '{ print $NF }'
    else if test (count $words) -eq 1; or begin
            test (count $words) -eq 2; and test $words[2] = help
        end
        $program help 2>/dev/null | awk '/^  [a-z]/ { print $1; if (sub(",", "", $1)) print $2 }' | tr -d ,
    else if test (count $words) -eq 2
        # A first argument that is written in small letters is one of these words: check|ls|retry.
        $program help $words[2] 2>/dev/null |
            awk '/^usage:/ && $5 ~ /^[a-z|]+$/ { gsub("[|]", "\n", $5); print $5 }'
    end
end
# With the first word no files, later they are offered too.
complete -c logd -n __fish_use_subcommand -f
complete -c logd -a '(__logd_words)'
