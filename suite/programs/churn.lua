-- Tables and strings: trees, concatenations, substitutions, sorts.
local function tree(depth)
    if depth == 0 then return {} end
    return { left = tree(depth - 1), right = tree(depth - 1), name = "node " .. depth }
end

local function count(node)
    if not node.left then return 1 end
    return 1 + count(node.left) + count(node.right)
end

local total, kept = 0, {}
for round = 1, tonumber(arg[1]) do
    kept[round % 3] = tree(13)
    total = total + count(kept[round % 3])
    local parts = {}
    for i = 1, 4000 do
        parts[#parts + 1] = ("item-%d=%s"):format((i * 7 + round) % 997, ("x"):rep(i % 200))
    end
    table.sort(parts)
    local text = table.concat(parts, " "):gsub("item", "entry")
    for word in text:gmatch("entry%-%d+") do total = total + #word end
end
print(total)
